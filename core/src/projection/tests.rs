//! Numbers, invariants and the way down the ladder, for every solver.

use proptest::prelude::*;
use tch::Device;

use super::covariance::tests::{close, covariance, matrix};
use super::exact::{Attempt, first_exact, projection, rank};
use super::*;

const CPU: Device = Device::Cpu;
const ALPHA: f64 = 0.4;
const LAYER: &str = "head.audio.fc1";

fn flat(alpha: f64) -> SpectralMap {
    SpectralMap::flat(alpha)
}

#[test]
fn the_null_space_keeps_what_is_no_larger_than_a_multiple_of_the_smallest() {
    let c = Tensor::from_slice(&[10.0, 4.0, 1.0, 1.5]).diag(0);
    let found = |multiple, unit_norm| {
        let map = SpectralMap::NullSpace { multiple, unit_norm };
        project(LAYER, &of(&c), map, Solving::with(Solver::Eigh)).unwrap().0.matrix().unwrap()
    };
    close(&found(1.0, false), &Tensor::from_slice(&[0.0, 0.0, 1.0, 0.0]).diag(0), 1e-12);
    close(&found(2.0, false), &Tensor::from_slice(&[0.0, 0.0, 1.0, 1.0]).diag(0), 1e-12);
    let half = 0.5f64.sqrt();
    close(&found(2.0, true), &Tensor::from_slice(&[0.0, 0.0, half, half]).diag(0), 1e-12);
    // What no input uses is kept although the smallest eigenvalue is nothing.
    let c = Tensor::from_slice(&[10.0, 0.0, 0.0]).diag(0);
    let map = SpectralMap::NullSpace { multiple: 10.0, unit_norm: false };
    let (found, _) = project(LAYER, &of(&c), map, Solving::with(Solver::Eigh)).unwrap();
    close(&found.matrix().unwrap(), &Tensor::from_slice(&[0.0, 1.0, 1.0]).diag(0), 1e-12);
    let error = project(
        LAYER,
        &of(&c),
        SpectralMap::NullSpace { multiple: 0.5, unit_norm: false },
        Solving::with(Solver::Eigh),
    );
    assert!(error.unwrap_err().to_string().contains("`multiple` is 0.5"));
}

fn of(c: &Tensor) -> Covariance {
    Covariance::from_matrix(c, 1).unwrap()
}

fn p(c: &Tensor, alpha: f64) -> Tensor {
    project(LAYER, &of(c), flat(alpha), Solving::with(Solver::Eigh)).unwrap().0.matrix().unwrap()
}

#[test]
fn v2_projection_of_two_features() {
    let c = covariance(CovarianceKind::BatchMean);
    let expected = [
        (0.4, [0.814_714_140_2, -0.163_567_062_4, -0.163_567_062_4, 0.855_605_906_4]),
        (1.0, [0.644_737_267_7, -0.313_619_623_0, -0.313_619_623_0, 0.723_142_173_5]),
        (10.0, [0.438_008_148_3, -0.496_116_413_7, -0.496_116_413_7, 0.562_037_251_7]),
    ];
    for (alpha, values) in expected {
        for solver in [Solver::Eigh, Solver::Svd] {
            let (found, report) =
                project(LAYER, &of(&c), flat(alpha), Solving::with(solver)).unwrap();
            close(&found.matrix().unwrap(), &matrix(&values, 2), 1e-9);
            assert!((report.largest - 9.531_128_874_1).abs() < 1e-9);
            assert!((report.smallest - 1.468_871_125_9).abs() < 1e-9);
            assert_eq!(report.rank, Some(2));
        }
    }
    close(&p(&(&c / 3.0), ALPHA), &p(&c, ALPHA), 1e-12);
}

#[test]
fn v3_projection_of_three_features_and_of_a_gradient() {
    let c = matrix(&[29., -22., -4., -22., 44., 26., -4., 26., 53.], 3) / 9.0;
    let found = p(&c, ALPHA);
    let expected = matrix(
        &[
            0.901_461_328_0,
            0.104_215_995_0,
            0.011_354_646_0,
            0.104_215_995_0,
            0.837_998_684_5,
            -0.115_570_641_0,
            0.011_354_646_0,
            -0.115_570_641_0,
            0.791_568_010_0,
        ],
        3,
    );
    close(&found, &expected, 1e-9);
    assert!((found.trace().double_value(&[]) - 2.531_028_022_5).abs() < 1e-9);
    let gradient = matrix(&[1., 2., 3., -1., 0., 1.], 3);
    let projected = Projection::Dense(found).apply(&gradient).unwrap();
    let expected = matrix(
        &[
            1.143_957_255_9,
            1.433_501_441_1,
            2.154_917_394_0,
            -0.890_106_682_0,
            -0.219_786_636_0,
            0.780_213_364_0,
        ],
        3,
    );
    close(&projected, &expected, 1e-9);
    let sharpest = matrix(&[1., -2., -2.], 3).tr() / 3.0;
    close(&projected.matmul(&sharpest), &matrix(&[-2.010_960_138_1, -0.670_320_046_0], 1), 1e-9);
}

#[test]
fn a_convolution_s_gradient_is_projected_over_channels_and_kernel() {
    let gradient = Tensor::randn([5, 2, 2, 2], (Kind::Double, CPU));
    let root = Tensor::randn([8, 8], (Kind::Double, CPU));
    let matrix = p(&root.matmul(&root.tr()), ALPHA);
    let found = Projection::Dense(matrix.shallow_clone()).apply(&gradient).unwrap();
    close(&found.view([5, 8]), &gradient.view([5, 8]).matmul(&matrix), 1e-12);
}

#[test]
fn flat_spectra_give_the_identity() {
    let eye = |d| Tensor::eye(d, (Kind::Double, CPU));
    for c in [eye(3) * 0.0, eye(3) * 4.2, Tensor::ones([1, 1], (Kind::Double, CPU))] {
        close(&p(&c, ALPHA), &eye(c.size()[0]), 0.0);
    }
    // A multiple of the identity with rounding noise, in both number formats.
    for kind in [Kind::Double, Kind::Float] {
        let root = Tensor::randn([40, 40], (kind, CPU));
        let (_, v) = root.matmul(&root.tr()).linalg_eigh("L");
        let noisy = v.matmul(&v.tr()) * 4.2;
        close(&p(&noisy, ALPHA), &Tensor::eye(40, (kind, CPU)), 0.0);
    }
}

#[test]
fn a_covariance_that_is_not_finite_is_refused_by_its_layer_and_not_decomposed() {
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let c = matrix(&[1., bad, bad, 1.], 2);
        let error =
            project(LAYER, &of(&c), flat(ALPHA), Solving::default()).unwrap_err().to_string();
        let start = "covariance of the inputs of layer `head.audio.fc1`: expected finite \
                     entries, found 2 of 4 that are not finite";
        assert!(error.starts_with(start), "{error}");
        assert!(error.contains("lower the learning rate"), "{error}");
    }
}

/// A symmetric matrix with a full spectrum, `[6, 6]`.
fn full() -> Tensor {
    tch::manual_seed(3);
    let root = Tensor::randn([6, 6], (Kind::Double, CPU));
    root.matmul(&root.tr())
}

#[test]
fn a_decomposition_that_is_not_exact_is_passed_over_for_the_next_rung() {
    let c = full().to_kind(Kind::Float);
    let ladder = Attempt::ladder(&c, Solver::Auto, true);
    let names: Vec<String> = ladder.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["eigh f32 cpu", "eigh f64 cpu", "svd f64 cpu"]);
    // Eigenvalues that are wrong, vectors that are no basis, NaN, and an outright failure:
    // each is passed over once on the first rung and twice on the first two.
    for fault in 0..4 {
        for broken in 1..=2 {
            let spoilt = |attempt: &Attempt, matrix: &Tensor| -> Result<Decomposition> {
                let mut found = attempt.decompose(matrix)?;
                if names[..broken].contains(&attempt.to_string()) {
                    match fault {
                        0 => found.values = &found.values * 1.01,
                        // Both at once leave the residual alone.
                        1 => {
                            found.vectors = &found.vectors * 2.0;
                            found.values = &found.values / 4.0;
                        }
                        2 => found.vectors = &found.vectors * f64::NAN,
                        _ => return Err(Error::Torch("failed to converge".to_owned())),
                    }
                }
                Ok(found)
            };
            let taken = first_exact(LAYER, &c, ladder.clone(), &spoilt).unwrap();
            assert_eq!(taken.attempt.to_string(), names[broken], "fault {fault}");
            assert_eq!(taken.failed.len(), broken);
            assert!(taken.failed[0].starts_with("eigh f32 cpu: "), "{:?}", taken.failed);
            let spectrum = Spectrum::of(&taken.found.values, Kind::Float).unwrap();
            let found = projection(&taken.found, &spectrum, flat(ALPHA)).unwrap().matrix().unwrap();
            close(&found, &p(&c.to_kind(Kind::Double), ALPHA), 1e-5);
        }
    }
}

#[test]
fn when_no_rung_is_exact_the_error_names_layer_width_residuals_and_a_way_out() {
    let c = full();
    let skewed = |attempt: &Attempt, matrix: &Tensor| -> Result<Decomposition> {
        let mut found = attempt.decompose(matrix)?;
        found.vectors = &found.vectors * 2.0;
        Ok(found)
    };
    let ladder = Attempt::ladder(&c, Solver::Svd, true);
    let error = first_exact(LAYER, &c, ladder, &skewed).map(|_| ()).unwrap_err().to_string();
    for part in [
        "`head.audio.fc1` (width 6)",
        "svd f64 cpu: residual 3.0e0, orthogonality 3.0e0",
        "eigh f64 cpu: residual",
        "leave the layer out of `scope`",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn the_report_says_which_rung_was_taken_and_how_exact_it_is() {
    let (_, report) = project(LAYER, &of(&full()), flat(ALPHA), Solving::default()).unwrap();
    assert_eq!(report.solver, "eigh f64 cpu");
    assert_eq!(report.failed, Vec::<String>::new());
    assert!(
        report.residual <= report.residual_tolerance
            && report.orthogonality <= report.residual_tolerance
    );
    assert!(report.error_bound.unwrap() < 1e-12, "{report:?}");
    assert!(
        (report.residual_tolerance.unwrap() - 100.0 * 6f64.sqrt() * f64::EPSILON).abs() < 1e-20
    );
    let single = of(&full().to_kind(Kind::Float));
    let (_, report) = project(LAYER, &single, flat(ALPHA), Solving::with(Solver::Svd)).unwrap();
    assert_eq!(report.solver, "svd f64 cpu", "f32 does not keep the tolerance");
    let loose = Solving { solver: Solver::Svd, tolerance: 1e-3 };
    let (_, report) = project(LAYER, &single, flat(ALPHA), loose).unwrap();
    assert_eq!(report.solver, "svd f32 cpu");
    assert!(report.residual_tolerance.unwrap() > 1e-5, "{report:?}");
}

#[test]
fn what_was_summed_in_f32_is_as_noisy_when_decomposed_in_f64() {
    let values = || Tensor::from_slice(&[1.0, 1.0 + 1e-7, 1.0 - 1e-7]);
    assert!(Spectrum::of(&values(), Kind::Float).unwrap().flat());
    assert!(!Spectrum::of(&values(), Kind::Double).unwrap().flat());
    let singular = || Tensor::from_slice(&[1e-9, 0.5, 1.0]);
    assert_eq!(rank(&singular(), 1.0, 3, Kind::Float).unwrap(), 2);
    assert_eq!(rank(&singular(), 1.0, 3, Kind::Double).unwrap(), 3);
}

#[test]
fn a_boundless_alpha_keeps_every_direction_that_no_input_uses_and_no_other() {
    tch::manual_seed(5);
    let used = Tensor::randn([3, 8], (Kind::Double, CPU));
    let c = used.tr().matmul(&used);
    let (_, _, v) = used.svd(true, true);
    let onto_unused = Tensor::eye(8, (Kind::Double, CPU)) - v.matmul(&v.tr());
    for alpha in [1e6, 1e30, 1e300] {
        close(&p(&c, alpha), &onto_unused, 1e-10);
        let single = p(&c.to_kind(Kind::Float), alpha).to_kind(Kind::Double);
        close(&single, &onto_unused, 1e-4);
    }
}

#[test]
fn the_projection_does_not_depend_on_the_scale_down_to_the_ends_of_the_format() {
    let c = full();
    let expected = p(&c, ALPHA);
    for scale in [1e-300, 1e300] {
        close(&p(&(&c * scale), ALPHA), &expected, 1e-9);
    }
    // A power of two changes no bit.
    close(&p(&(&c * 1024.0), ALPHA), &expected, 0.0);
    let single = c.to_kind(Kind::Float);
    for scale in [1e-36, 1e36] {
        let found = p(&(&single * scale), ALPHA).to_kind(Kind::Double);
        close(&found, &expected, 1e-4);
    }
    let (_, report) = project(LAYER, &of(&(&c * 1e-300)), flat(ALPHA), Solving::default()).unwrap();
    assert!((report.mean * 6e300 / c.trace().double_value(&[]) - 1.0).abs() < 1e-9);
}

/// Slow reference: `P = sum_k exp(-alpha r_k) v_k v_k^T`, term by term, from an SVD.
fn slow_reference(c: &Tensor, alpha: f64) -> Tensor {
    let (_, s, v) = c.svd(true, true);
    let d = c.size()[0];
    let s: Vec<f64> = (0..d).map(|k| s.double_value(&[k])).collect();
    let (low, high) = (s[d as usize - 1], s[0]);
    let mut sum = Tensor::zeros([d, d], (Kind::Double, CPU));
    for (k, value) in s.iter().enumerate() {
        let column = v.narrow(1, k as i64, 1);
        sum += column.matmul(&column.tr()) * (-alpha * (value - low) / (high - low)).exp();
    }
    sum
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn v4_invariants_hold_on_random_inputs(
        seed in 0i64..10_000, d in 2i64..24, rows in 1i64..30, alpha in 0.0f64..8.0,
        scale in 1e-3f64..1e3,
    ) {
        tch::manual_seed(seed);
        let x = Tensor::randn([rows, d], (Kind::Double, CPU));
        let c = x.tr().matmul(&x);
        let found = p(&c, alpha);
        close(&found, &found.tr(), 0.0);
        let (values, _) = found.linalg_eigh("L");
        prop_assert!(values.min().double_value(&[]) >= (-alpha).exp() - 1e-10);
        prop_assert!(values.max().double_value(&[]) <= 1.0 + 1e-10);
        close(&p(&(&c * scale), alpha), &found, 1e-8);
        close(&p(&c, 0.0), &Tensor::eye(d, (Kind::Double, CPU)), 1e-12);
        // Exact with room to spare, by either solver and in either format.
        for c in [c.shallow_clone(), c.to_kind(Kind::Float)] {
            for solver in [Solver::Eigh, Solver::Svd] {
                let (_, report) = project(LAYER, &of(&c), flat(alpha), Solving::with(solver)).unwrap();
                prop_assert!(report.failed.is_empty(), "{:?}", report.failed);
                let worst = report.residual.unwrap().max(report.orthogonality.unwrap());
                prop_assert!(worst <= 0.5 * report.residual_tolerance.unwrap(), "{report:?}");
            }
        }
        close(&found, &slow_reference(&c, alpha), 1e-8);
        // f32 stays close to f64.
        let single = p(&c.to_kind(Kind::Float), alpha).to_kind(Kind::Double);
        close(&single, &found, 1e-4 * (1.0 + alpha));
        // Left multiplication in the transposed layout is the same thing.
        let g = Tensor::randn([3, d], (Kind::Double, CPU));
        let right = Projection::Dense(found.shallow_clone()).apply(&g).unwrap();
        close(&right, &found.matmul(&g.tr()).tr(), 1e-12);
    }

}

/// `P` by the definition, from a decomposition in f64.
fn reference(c: &Tensor, alpha: f64, exponent: Exponent) -> Tensor {
    let (values, vectors) = c.to_kind(Kind::Double).linalg_eigh("L");
    let values = values.clamp_min(0.0);
    let (low, high) = (values.min().double_value(&[]), values.max().double_value(&[]));
    let shares = match exponent {
        Exponent::MinMax => (&values - low) / (high - low),
        Exponent::Max => &values / high,
        Exponent::Sum => &values / values.sum(Kind::Double),
    };
    (&vectors * (shares * -alpha).exp().unsqueeze(0)).matmul(&vectors.tr())
}

fn norm(tensor: &Tensor) -> f64 {
    tensor.norm().double_value(&[])
}

/// Spectra that a solver may meet, of a width.
fn spectra(width: i64) -> Vec<(&'static str, Vec<f64>)> {
    let each = |value: &dyn Fn(f64) -> f64| -> Vec<f64> {
        (0..width).map(|k| value(k as f64 / (width - 1) as f64)).collect()
    };
    let mut dominant = each(&|x| 1.0 - x);
    dominant[0] = 0.94 / 0.06 * dominant.iter().sum::<f64>();
    let mut deficient = each(&|x| (1.0 - x).powi(2));
    deficient[(width / 4) as usize..].fill(0.0);
    vec![
        ("even", each(&|x| 1.0 + x)),
        ("almost flat", each(&|x| 1.0 + 1e-3 * x)),
        ("dominant", dominant),
        ("deficient", deficient),
        ("clustered", each(&|x| (4.0 * x).floor() + 1e-6 * x)),
        ("condition 1e12", each(&|x| 10f64.powf(-12.0 * x))),
        ("one direction", each(&|x| if x > 0.0 { 0.0 } else { 3.0 })),
    ]
}

/// An orthogonal matrix.
fn rotation(width: i64) -> Tensor {
    tch::manual_seed(width);
    let (q, _) = Tensor::linalg_qr(&Tensor::randn([width, width], (Kind::Double, CPU)), "reduced");
    q
}

/// A covariance with a spectrum, as a matrix and with all its rows as a factor.
fn made(values: &[f64], rotation: &Tensor, precision: Precision) -> (Covariance, Covariance) {
    let values = Tensor::from_slice(values);
    let matrix = (rotation * values.unsqueeze(0)).matmul(&rotation.tr());
    let matrix = (&matrix + matrix.tr()) * 0.5;
    let used = values.gt(0.0).nonzero().view([-1]);
    let rows = (rotation * values.sqrt().unsqueeze(0)).tr().index_select(0, &used);
    let width = rotation.size()[0];
    let mut factor = Covariance::new(width, CovarianceKind::SecondMoment, precision, CPU);
    factor.add(&crate::layers::LayerKind::Linear, &rows).unwrap();
    (of(&matrix.to_kind(precision.kind())), factor)
}

/// Largest eigenvalue, by its amount, of a matrix that is symmetric up to rounding.
fn spectral_norm(matrix: &Tensor) -> f64 {
    ((matrix + matrix.tr()) * 0.5).linalg_eigvalsh("L").abs().max().double_value(&[])
}

/// What holds for every solver: the error against f64 is within the tolerance and below the bound,
/// eigenvalues keep to their range, and `P` is symmetric and does what its matrix does.
fn assert_conforms(sum: &Covariance, alpha: f64, exponent: Exponent, solving: Solving, case: &str) {
    let exact = sum.matrix().unwrap();
    // The rows of a factor are multiplied in f64 by `gram`.
    let exact = match sum.factor().unwrap() {
        Some(rows) => rows.to_kind(Kind::Double).tr().matmul(&rows.to_kind(Kind::Double)),
        None => exact,
    };
    let expected = reference(&exact, alpha, exponent);
    let map = SpectralMap::Exponential { alpha, exponent };
    let (found, report) = project(LAYER, sum, map, solving).unwrap();
    let case = format!("{case} {exponent:?} {alpha} {solving:?}: {report:?}");
    let p = found.matrix().unwrap().to_kind(Kind::Double);
    let kind = found.format().0;
    let rounding = 20.0 * epsilon(kind);
    let allowed = solving.tolerance + rounding;
    // Where `P` all but vanishes its error does not.
    let error = norm(&(&p - &expected)) / norm(&expected).max(1.0);
    assert!(error <= allowed, "{error:e} {case}");
    let error = spectral_norm(&(&p - &expected));
    let bound = report.error_bound.unwrap();
    assert!(error <= bound + rounding, "{error:e} is above the bound, {case}");
    if report.form == "dense" {
        close(&p, &p.tr(), 0.0);
    }
    let eigenvalues = ((&p + p.tr()) * 0.5).linalg_eigvalsh("L");
    assert!(eigenvalues.min().double_value(&[]) >= (-alpha).exp() - allowed, "{case}");
    assert!(eigenvalues.max().double_value(&[]) <= 1.0 + allowed, "{case}");
    tch::manual_seed(2);
    let gradient = Tensor::randn([5, sum.width()], (Kind::Double, CPU));
    let applied = found.apply(&gradient.to_kind(kind)).unwrap().to_kind(Kind::Double);
    let product = gradient.matmul(&expected);
    assert!(norm(&(applied - &product)) <= 2.0 * allowed * norm(&product).max(1.0), "{case}");
    // A power of two changes no bit, any other number nothing that counts.
    let rounded = 100.0 * (1.0 + alpha) * epsilon(sum.format().0);
    for (scale, room) in [(1024.0, 0.0), (1e-3, 2.0 * allowed + rounded)] {
        let scaled = match sum.factor().unwrap() {
            Some(rows) => {
                let precision =
                    if rows.kind() == Kind::Float { Precision::F32 } else { Precision::F64 };
                let kind = CovarianceKind::SecondMoment;
                let mut scaled = Covariance::new(sum.width(), kind, precision, CPU);
                scaled.add(&crate::layers::LayerKind::Linear, &(rows * scale)).unwrap();
                scaled
            }
            None => of(&(sum.matrix().unwrap() * scale)),
        };
        let (again, other) = project(LAYER, &scaled, map, solving).unwrap();
        let off = (again.matrix().unwrap() - found.matrix().unwrap()).abs().max();
        assert!(off.double_value(&[]) <= room, "times {scale}: {off:?} {other:?} {case}");
    }
}

#[test]
fn every_solver_keeps_the_same_properties_on_every_spectrum_in_both_formats() {
    let width = 96;
    let rotation = rotation(width);
    for precision in [Precision::F64, Precision::F32] {
        for (name, values) in spectra(width) {
            let (full, factor) = made(&values, &rotation, precision);
            for exponent in [Exponent::MinMax, Exponent::Max, Exponent::Sum] {
                for alpha in [0.05, ALPHA, 3.0, 40.0] {
                    for solver in Solver::EACH.into_iter().chain([Solver::Auto]) {
                        // In f32 almost equal eigenvalues are equal but for rounding, and a factor
                        // that was multiplied in f32 is compared elsewhere.
                        if precision == Precision::F32
                            && (name == "almost flat"
                                || solver == Solver::Gram && factor.factor_rows().is_none())
                        {
                            continue;
                        }
                        for tolerance in [1e-6, 1e-11] {
                            let solving = Solving { solver, tolerance };
                            // A small range magnifies what eigenvalues are off by.
                            if name == "almost flat" && tolerance < 1e-10 {
                                continue;
                            }
                            let sum = if solver == Solver::Gram { &factor } else { &full };
                            let case = format!("{name} {precision:?}");
                            assert_conforms(sum, alpha, exponent, solving, &case);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn the_record_has_the_extremes_of_the_covariance() {
    let rotation = rotation(96);
    for (name, values) in spectra(96) {
        let (full, factor) = made(&values, &rotation, Precision::F64);
        let largest = values.iter().copied().fold(0.0, f64::max);
        let smallest = values.iter().copied().fold(f64::MAX, f64::min);
        for solver in Solver::EACH {
            let sum = if solver == Solver::Gram { &factor } else { &full };
            let (_, report) = project(LAYER, sum, flat(ALPHA), Solving::with(solver)).unwrap();
            assert!((report.largest - largest).abs() <= 1e-5 * largest, "{name}: {report:?}");
            assert!((report.smallest - smallest).abs() <= 1e-5 * largest, "{name}: {report:?}");
        }
    }
}

#[test]
fn a_sum_in_f32_that_is_a_little_below_zero_is_no_reason_to_give_up() {
    // Rounding of a rank-deficient sum leaves eigenvalues on both sides of zero.
    let (full, _) = made(&spectra(96)[3].1, &rotation(96), Precision::F32);
    let values = full.matrix().unwrap().to_kind(Kind::Double).linalg_eigvalsh("L");
    assert!(values.min().double_value(&[]) < -1e-9);
    for solver in [Solver::Eigh, Solver::Svd] {
        let matrix = full.matrix().unwrap();
        let ladder = Attempt::ladder(&matrix, solver, true);
        let failing = |attempt: &Attempt, matrix: &Tensor| -> Result<Decomposition> {
            if attempt.to_string().contains("f32") {
                return Err(Error::Torch("failed to converge".to_owned()));
            }
            attempt.decompose(matrix)
        };
        let taken = first_exact(LAYER, &matrix, ladder, &failing).unwrap();
        assert_eq!(taken.attempt.to_string(), format!("{} f64 cpu", solver.name()));
    }
}

#[test]
fn what_is_no_covariance_at_all_is_left_to_a_decomposition() {
    let c =
        Tensor::from_slice(&vec![-0.5; 80]).diag(0) + Tensor::eye(80, (Kind::Double, CPU)) * 1.0;
    let c = c + Tensor::from_slice(&[vec![-1.0], vec![0.0; 79]].concat()).diag(0);
    for kind in [Kind::Float, Kind::Double] {
        let solving = Solving::with(Solver::Chebyshev);
        let (_, report) = project(LAYER, &of(&c.to_kind(kind)), flat(ALPHA), solving).unwrap();
        assert!(report.solver.starts_with("eigh"), "{report:?}");
    }
}

#[test]
fn every_solver_does_the_work_itself_where_it_can() {
    let rotation = rotation(96);
    for (name, values) in spectra(96) {
        let (full, factor) = made(&values, &rotation, Precision::F64);
        let by = |sum: &Covariance, solver| {
            project(LAYER, sum, flat(ALPHA), Solving::with(solver)).unwrap().1
        };
        for solver in [Solver::Svd, Solver::Eigh, Solver::Chebyshev] {
            let report = by(&full, solver);
            assert!(report.solver.starts_with(solver.name()), "{name}: {report:?}");
            assert!(report.failed.is_empty(), "{name}: {report:?}");
        }
        let report = by(&factor, Solver::Gram);
        let few = factor.factor_rows().is_some();
        assert_eq!(report.solver.starts_with("gram"), few, "{name}: {report:?}");
        assert_eq!(few, ["deficient", "one direction"].contains(&name), "{name}");
        assert_eq!(report.failed.is_empty(), few);
    }
}

#[test]
fn an_interval_that_is_wider_than_was_seen_shrinks_more_and_amplifies_nothing() {
    let rotation = rotation(64);
    for (name, values) in spectra(64) {
        let (full, _) = made(&values, &rotation, Precision::F64);
        let matrix = full.matrix().unwrap();
        let found = lanczos::extremes(&matrix, 1e-9, true).unwrap().unwrap();
        let (low, high) = found.interval;
        let exact = matrix.linalg_eigvalsh("L");
        let (smallest, largest) = (exact.min().double_value(&[]), exact.max().double_value(&[]));
        assert!(low <= smallest + 1e-12 && largest <= high, "{name}: {found:?}");
        // Had Lanczos seen only 60 percent of the range.
        let seen = (smallest, smallest + 0.6 * (largest - smallest));
        let missed = chebyshev::tests::by_extremes(&matrix, seen, found.interval);
        let eigenvalues = missed.linalg_eigvalsh("L");
        assert!(eigenvalues.max().double_value(&[]) <= 1.0 + 1e-6, "{name}");
        assert!(eigenvalues.min().double_value(&[]) > 0.0, "{name}");
    }
}

#[test]
fn null_spaces_are_the_same_from_rows_as_from_the_matrix() {
    let rotation = rotation(40);
    let (_, values) = spectra(40).swap_remove(3);
    let (full, factor) = made(&values, &rotation, Precision::F64);
    for unit_norm in [false, true] {
        let map = SpectralMap::NullSpace { multiple: 10.0, unit_norm };
        let by = |sum: &Covariance, solver| {
            let (found, report) = project(LAYER, sum, map, Solving::with(solver)).unwrap();
            (found.matrix().unwrap(), report)
        };
        let (expected, _) = by(&full, Solver::Eigh);
        let (found, report) = by(&factor, Solver::Auto);
        close(&found, &expected, 1e-10);
        assert!(report.solver.starts_with("gram"), "{report:?}");
        let (found, report) = by(&full, Solver::Chebyshev);
        close(&found, &expected, 1e-12);
        assert!(report.failed[0].contains("null space"), "{report:?}");
    }
}

#[test]
fn what_is_used_seldom_is_left_as_a_series_that_does_the_same() {
    let width = 200;
    let (full, _) = made(&spectra(width)[2].1, &rotation(width), Precision::F64);
    let gradient = Tensor::randn([4, width], (Kind::Float, CPU));
    let by = |uses| {
        let work = Some(Work { rows: 4, uses });
        let asked = Asked { layer: LAYER, covariance: &full, work };
        let solving = Solving::with(Solver::Chebyshev);
        project_each(&[asked], flat(ALPHA), solving).unwrap().swap_remove(0)
    };
    let (whole, seldom) = (by(1e6), by(1.0));
    assert_eq!(whole.1.form, "dense");
    assert!(seldom.1.form.starts_with("series"), "{:?}", seldom.1);
    let (a, b) = (whole.0.apply(&gradient).unwrap(), seldom.0.apply(&gradient).unwrap());
    assert!(norm(&(&a - &b)) <= 1e-6 * norm(&a));
    for (projection, _) in [whole, seldom] {
        let mut state = crate::family::State::default();
        projection.save("layer", &mut state).unwrap();
        let loaded = Projection::load("layer", &mut state).unwrap();
        assert_eq!(loaded.apply(&gradient).unwrap(), projection.apply(&gradient).unwrap());
        assert!(Projection::load("layer", &mut state).is_err());
    }
}

#[test]
fn small_layers_are_decomposed_together_with_the_results_they_have_alone() {
    let layers: Vec<Covariance> = [(12, 1), (8, 2), (12, 3), (12, 4)]
        .map(|(width, seed)| {
            tch::manual_seed(seed);
            let rows = Tensor::randn([30, width], (Kind::Double, CPU));
            of(&rows.tr().matmul(&rows))
        })
        .into();
    let asked: Vec<Asked<'_>> =
        layers.iter().map(|covariance| Asked { layer: LAYER, covariance, work: None }).collect();
    let together = project_each(&asked, flat(ALPHA), Solving::default()).unwrap();
    for (covariance, (found, report)) in layers.iter().zip(&together) {
        let (alone, expected) =
            project(LAYER, covariance, flat(ALPHA), Solving::default()).unwrap();
        close(&found.matrix().unwrap(), &alone.matrix().unwrap(), 1e-12);
        assert_eq!((report.rank, &report.solver), (expected.rank, &expected.solver));
    }
    // One that is not finite is refused by its name, the others notwithstanding.
    let bad = of(&Tensor::full([12, 12], f64::NAN, (Kind::Double, CPU)));
    let mut asked = asked;
    asked.push(Asked { layer: "head.video.fc9", covariance: &bad, work: None });
    let error = project_each(&asked, flat(ALPHA), Solving::default()).unwrap_err().to_string();
    assert!(error.contains("head.video.fc9"), "{error}");
}

#[test]
fn drift_bounds_what_happens_to_p() {
    tch::manual_seed(11);
    for step in [1e-4, 1e-2, 0.3] {
        let rows = Tensor::randn([60, 24], (Kind::Double, CPU));
        let other = &rows + Tensor::randn([60, 24], (Kind::Double, CPU)) * step;
        let [before, after] = [rows, other].map(|rows| of(&rows.tr().matmul(&rows)));
        let changed =
            norm(&(p(&before.matrix().unwrap(), ALPHA) - p(&after.matrix().unwrap(), ALPHA)));
        let exponent = |sum| exponent(LAYER, sum, flat(ALPHA)).unwrap().unwrap();
        let bound = drift(&exponent(&before), &exponent(&after)).unwrap();
        assert!(changed <= bound + 1e-6, "{step}: {changed} above {bound}");
        assert!(bound <= 4.0 * changed + 1e-6, "{step}: {bound} is idle beside {changed}");
    }
}

#[test]
fn an_alpha_beyond_all_squarings_goes_to_a_decomposition() {
    let (full, _) = made(&spectra(64)[0].1, &rotation(64), Precision::F64);
    for alpha in [1e3, 1e9] {
        let (found, report) =
            project(LAYER, &full, flat(alpha), Solving::with(Solver::Chebyshev)).unwrap();
        assert!(report.solver.starts_with("eigh"), "{report:?}");
        let expected = reference(&full.matrix().unwrap(), alpha, Exponent::MinMax);
        close(&found.matrix().unwrap(), &expected, 1e-9);
    }
}

#[test]
fn a_tolerance_out_of_range_is_refused() {
    for tolerance in [0.0, -1.0, 0.5, f64::NAN] {
        let solving = Solving { solver: Solver::Auto, tolerance };
        let error = project(LAYER, &of(&full()), flat(ALPHA), solving).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("`tolerance`"), "{error}");
    }
}
