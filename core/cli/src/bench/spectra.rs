//! Inputs of the projection whose spectra are known, the same on every machine.

use clap::ValueEnum;
use mie_core::Result;
use mie_core::random::{Purpose, Seed, standard_normal};
use tch::{Device, Kind, Tensor};

/// Samples of a batch: those of the paper.
pub(super) const BATCH: i64 = 12;

/// Batches made at once, so that a long pass takes no more memory than a short one.
const AT_ONCE: u64 = 32;

/// What covariances are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(super) enum Spectrum {
    /// Batch means of rectified Gaussian features: what a head sees
    Features,
    /// All eigenvalues from 1 to 1.001
    Flat,
    /// One eigenvalue has 0.94 of the trace, the others decay (Table 5 of the paper)
    Dominant,
    /// Three quarters of the eigenvalues are 0
    Deficient,
    /// Four clusters of a relative width of 1e-6
    Clustered,
    /// Eigenvalues from 1 down to 1e-12, evenly in logarithms
    IllConditioned,
}

impl Spectrum {
    /// Those that are made by a decomposition.
    pub(super) const MADE: [Self; 5] =
        [Self::Flat, Self::Dominant, Self::Deficient, Self::Clustered, Self::IllConditioned];

    /// Its name on the command line.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Features => "features",
            Self::Flat => "flat",
            Self::Dominant => "dominant",
            Self::Deficient => "deficient",
            Self::Clustered => "clustered",
            Self::IllConditioned => "ill_conditioned",
        }
    }

    /// Eigenvalues of a width, the largest first; `None` where they are what comes of batches.
    pub(super) fn eigenvalues(self, width: i64) -> Option<Vec<f64>> {
        let count = width as usize;
        // From 0 for the largest to 1 for the smallest.
        let place = |index: usize| index as f64 / (count.max(2) - 1) as f64;
        let values = |value: &dyn Fn(usize) -> f64| Some((0..count).map(value).collect());
        match self {
            Self::Features => None,
            Self::Flat => values(&|index| 1.0 + 1e-3 * (1.0 - place(index))),
            Self::Dominant => {
                let rest: f64 = (1..count).map(|index| 1.0 / index as f64).sum();
                let share = 0.06 / (0.94 * rest);
                values(&|index| if index == 0 { 1.0 } else { share / index as f64 })
            }
            Self::Deficient => {
                let rank = count / 4;
                values(&|index| {
                    if index < rank { (rank - index) as f64 / rank as f64 } else { 0.0 }
                })
            }
            Self::Clustered => values(&|index| {
                let cluster = (4 * index / count) as i32;
                let within = (4 * index % count) as f64 / count as f64;
                10f64.powi(-cluster) * (1.0 + 1e-6 * (1.0 - within))
            }),
            Self::IllConditioned => values(&|index| 10f64.powf(-12.0 * place(index))),
        }
    }
}

/// Makes `C = Q diag(s) Q^T`, `[width, width]` in f64, with `Q` of a QR decomposition of Gaussian
/// numbers.
pub(super) fn matrix(eigenvalues: &[f64]) -> Result<Tensor> {
    let width = eigenvalues.len() as i64;
    let number = Seed(0).number(Purpose::Synthesis, "bench basis", &[width as u64]);
    let like = Tensor::f_zeros([width, width], (Kind::Double, Device::Cpu))?;
    let (basis, _) = Tensor::f_linalg_qr(&standard_normal(number, &like)?, "reduced")?;
    let values = Tensor::f_from_slice(eigenvalues)?.f_unsqueeze(0)?;
    let product = basis.f_mul(&values)?.f_matmul(&basis.f_tr()?)?;
    Ok(product.f_add(&product.f_tr()?)?.f_mul_scalar(0.5)?)
}

/// Hands out batches of rectified Gaussian features, `[batch, width]` f32 on the device, some at a
/// time; the same ones at every call for a width and count.
pub(super) fn features(
    width: i64,
    batches: u64,
    device: Device,
    see: &mut dyn FnMut(&[Tensor]) -> Result<()>,
) -> Result<()> {
    let mut done = 0;
    while done < batches {
        let count = AT_ONCE.min(batches - done);
        let number = Seed(0).number(Purpose::Synthesis, "bench features", &[width as u64, done]);
        let like = Tensor::f_zeros([count as i64, BATCH, width], (Kind::Float, Device::Cpu))?;
        // Made on the CPU for every device: elsewhere the last bits may differ.
        let made = standard_normal(number, &like)?.f_relu()?.f_to_device(device)?;
        let batch = |index: u64| -> Result<Tensor> { Ok(made.f_select(0, index as i64)?) };
        see(&(0..count).map(batch).collect::<Result<Vec<_>>>()?)?;
        done += count;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eigenvalues_come_back_from_the_matrix_that_is_made_of_them() {
        for spectrum in Spectrum::MADE {
            let made = spectrum.eigenvalues(96).unwrap();
            assert!(made.is_sorted_by(|a, b| a >= b), "{spectrum:?}");
            let found = matrix(&made).unwrap().linalg_eigvalsh("L");
            let mut found: Vec<f64> = Vec::try_from(found).unwrap();
            found.reverse();
            for (found, made) in found.iter().zip(&made) {
                assert!((found - made).abs() < 1e-14 * 96.0, "{spectrum:?}: {found}, not {made}");
            }
        }
    }

    #[test]
    fn spectra_are_what_their_names_say() {
        let values = |spectrum: Spectrum| spectrum.eigenvalues(64).unwrap();
        let dominant = values(Spectrum::Dominant);
        let share = dominant[0] / dominant.iter().sum::<f64>();
        assert!((share - 0.94).abs() < 1e-12, "{share}");
        let deficient = values(Spectrum::Deficient);
        assert_eq!(deficient.iter().filter(|value| **value > 0.0).count(), 16);
        assert!(deficient[16].abs() < f64::MIN_POSITIVE);
        let clustered = values(Spectrum::Clustered);
        assert!((clustered[15] - 1.0).abs() < 2e-6 && (clustered[16] - 0.1).abs() < 2e-7);
        let ill = values(Spectrum::IllConditioned);
        assert!((ill[0] / ill[63] / 1e12 - 1.0).abs() < 1e-9);
        assert!((values(Spectrum::Flat)[0] - 1.001).abs() < 1e-12);
    }

    #[test]
    fn features_are_the_same_at_every_call_and_not_negative() {
        let collect = || {
            let mut all = Vec::new();
            features(8, 40, Device::Cpu, &mut |batches| {
                all.extend(batches.iter().map(Tensor::copy));
                Ok(())
            })
            .unwrap();
            all
        };
        let first = collect();
        assert_eq!(first.len(), 40);
        assert_eq!(first[0].size(), [BATCH, 8]);
        assert_eq!(first, collect());
        assert_ne!(first[0], first[32]);
        assert!(first.iter().all(|batch| batch.min().double_value(&[]) >= 0.0));
    }
}
