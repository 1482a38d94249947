//! Directions for looking at the loss around a set of weights.

use tch::{Kind, Tensor, no_grad_guard};

use crate::error::{Error, Result};

/// Scales a random direction to the weights it belongs to, filter by filter.
///
/// For every output row or filter `f` (the first dimension),
///
/// ```text
/// d_f <- d_f ||theta_f|| / (||d_f|| + 1e-10)
/// ```
///
/// and 0 for biases and normalisation layers (one dimension), so that surfaces of networks whose
/// weights have other scales can be compared (Li et al. 2018, arXiv:1712.09913).
///
/// # Errors
/// [`Error::Shape`] when direction and weight differ in size.
pub fn filter_normalise(direction: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let _guard = no_grad_guard();
    if direction.size() != weight.size() {
        return Err(Error::shape("direction of a weight", weight.size(), direction.size()));
    }
    if weight.dim() < 2 {
        return Ok(direction.f_zeros_like()?);
    }
    let over: Vec<i64> = (1..weight.dim() as i64).collect();
    let norm = |tensor: &Tensor| -> Result<Tensor> {
        let squares = tensor.f_square()?;
        Ok(squares.f_sum_dim_intlist(over.as_slice(), true, None::<Kind>)?.f_sqrt()?)
    };
    let scale = norm(weight)?.f_div(&norm(direction)?.f_add_scalar(1e-10)?)?;
    Ok(direction.f_mul(&scale)?)
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    #[test]
    fn v12_every_row_gets_the_length_of_its_weights() {
        let matrix = |values: &[f64]| Tensor::from_slice(values).view([2, 2]);
        let found =
            filter_normalise(&matrix(&[1., 0., 1., 1.]), &matrix(&[3., 4., 0., 2.])).unwrap();
        let expected = matrix(&[5.0, 0.0, 2f64.sqrt(), 2f64.sqrt()]);
        assert!((found - expected).abs().max().double_value(&[]) < 1e-9);
    }

    #[test]
    fn filters_are_whole_and_biases_get_no_direction() {
        let options = (Kind::Double, Device::Cpu);
        let weight = Tensor::randn([4, 3, 2, 2], options);
        let found = filter_normalise(&Tensor::randn([4, 3, 2, 2], options), &weight).unwrap();
        let norms = |t: &Tensor| t.square().sum_dim_intlist([1i64, 2, 3].as_slice(), false, None);
        assert!((norms(&found) - norms(&weight)).abs().max().double_value(&[]) < 1e-8);
        let bias = Tensor::randn([4], options);
        let found = filter_normalise(&Tensor::randn([4], options), &bias).unwrap();
        assert_eq!(found, Tensor::zeros([4], options));
        assert!(filter_normalise(&bias, &weight).is_err());
    }
}
