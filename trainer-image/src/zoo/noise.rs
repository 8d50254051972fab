//! What makes a network random while it is trained, drawn from libtorch's default generator as torchvision draws it: the
//! same seed before a forward pass leaves out the same values.

use tch::{TchError, Tensor};

/// `torch.nn.Dropout` in place: each value becomes 0 with this probability, the others grow so that the mean stays.
pub(super) fn dropout(mut input: Tensor, probability: f64, train: bool) -> Result<Tensor, TchError> {
    if train { input.f_dropout_(probability, true) } else { Ok(input) }
}

/// `torchvision.ops.StochasticDepth` in its mode `row` (Huang et al. 2016): each image's row of `input`, of shape
/// `[batch, ..]`, becomes 0 with this probability, the others grow so that the mean stays.
pub(super) fn stochastic_depth(input: Tensor, probability: f64, train: bool) -> Result<Tensor, TchError> {
    if !train || probability == 0.0 {
        return Ok(input);
    }
    let survival = 1.0 - probability;
    let mut size = vec![1; input.dim()];
    size[0] = input.size()[0];
    let mut noise = Tensor::f_empty(&size, (input.kind(), input.device()))?.f_bernoulli_float_(survival)?;
    if survival > 0.0 {
        noise = noise.f_div_scalar_(survival)?;
    }
    input.f_mul(&noise)
}

#[cfg(test)]
mod tests {
    use tch::kind::FLOAT_CPU;

    use super::*;

    fn ones(rows: i64) -> Tensor {
        Tensor::ones([rows, 3, 2, 2], FLOAT_CPU)
    }

    #[test]
    fn stochastic_depth_leaves_out_whole_rows_and_scales_the_others() {
        tch::manual_seed(5);
        let rows = stochastic_depth(ones(10_000), 0.2, true).unwrap();
        let (least, most) = (rows.amin([1, 2, 3], false), rows.amax([1, 2, 3], false));
        assert_eq!(least, most, "a row is left out as a whole or not at all");
        let values: Vec<f32> = Vec::try_from(&most).unwrap();
        let dropped = values.iter().filter(|value| **value == 0.0).count();
        assert!(values.iter().all(|value| *value == 0.0 || *value == 1.25));
        // Five standard deviations of a binomial distribution.
        assert!(dropped.abs_diff(2_000) < 200, "{dropped} of 10000 rows");
    }

    #[test]
    fn dropout_leaves_out_single_values_and_scales_the_others() {
        tch::manual_seed(5);
        let values: Vec<f32> = Vec::try_from(&dropout(ones(1_000), 0.5, true).unwrap().view([-1])).unwrap();
        let dropped = values.iter().filter(|value| **value == 0.0).count();
        assert!(values.iter().all(|value| *value == 0.0 || *value == 2.0));
        assert!(dropped.abs_diff(6_000) < 280, "{dropped} of 12000 values");
    }

    #[test]
    fn evaluation_changes_nothing() {
        assert_eq!(stochastic_depth(ones(8), 0.9, false).unwrap(), ones(8));
        assert_eq!(dropout(ones(8), 0.9, false).unwrap(), ones(8));
        assert_eq!(stochastic_depth(ones(8), 0.0, true).unwrap(), ones(8));
    }

    #[test]
    fn certain_loss_gives_zeros_and_not_infinities() {
        assert_eq!(stochastic_depth(ones(4), 1.0, true).unwrap(), ones(4).zeros_like());
    }
}
