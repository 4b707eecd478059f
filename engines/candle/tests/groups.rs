//! int8 activations with a scale for each group along K: the core's bits on every path.

mod common;

use candle_core::{DType, Device, Module, Result, Tensor, Var};
use common::{bits, layer, random};
use tritgemm::{Granularity, GroupSize, Grouped, MatMut, MatRef, Workspace};
use tritgemm_candle::{ActivationMode, BitExperts, BitLinear, forward_many};

const COLS: usize = 300;
const GRANULARITIES: [Granularity; 2] =
    [Granularity::PerRow, Granularity::PerGroup(GroupSize::G64)];

/// What the core makes of `x` `[tokens, COLS]` in f32.
fn core(layer: &BitLinear, x: &Tensor, group: GroupSize) -> Result<Vec<u32>> {
    let (tokens, linear) = (x.dims()[0], layer.linear());
    let x = x.flatten_all()?.to_vec1::<f32>()?;
    let x = Grouped(MatRef::new(&x, tokens, COLS).unwrap(), group);
    let mut y = vec![0.0f32; tokens * linear.out_features()];
    let to = MatMut::new(&mut y, tokens, linear.out_features()).unwrap();
    linear.forward_int8(x, to, &mut Workspace::new()).unwrap();
    Ok(y.into_iter().map(f32::to_bits).collect())
}

#[test]
fn groups_of_activations_give_the_cores_bits() -> Result<()> {
    for granularity in GRANULARITIES {
        let plain = layer(70, COLS, granularity, true)?;
        let other = layer(33, COLS, granularity, false)?;
        assert_eq!(plain.activation_group(), None);
        for &group in GroupSize::ALL {
            let [layer, other] =
                [&plain, &other].map(|l| l.clone().with_activation_group(Some(group)));
            assert_eq!(layer.activation_group(), Some(group));
            for tokens in [1, 3, 40] {
                let x = random(&[tokens, COLS])?;
                let expected = core(&layer, &x, group)?;
                assert_ne!(bits(&plain.forward(&x)?)?, expected, "one scale a token");
                assert_eq!(bits(&layer.forward(&x)?)?, expected);
                let prepared = layer.prepare(&x)?;
                assert_eq!(prepared.activation_group(), Some(group));
                assert_eq!(bits(&layer.forward_prepared(&prepared)?)?, expected);
                // Beside a layer of the same groups, and one of none.
                let [a, b, c] = forward_many([&layer, &other, &plain], &x)?;
                assert_eq!(bits(&a)?, expected);
                assert_eq!(bits(&b)?, core(&other, &x, group)?);
                assert_eq!(bits(&c)?, bits(&plain.forward(&x)?)?);

                let half = x.to_dtype(DType::BF16)?;
                let wide = layer.forward(&half.to_dtype(DType::F32)?)?;
                let rounded = wide.to_dtype(DType::BF16)?;
                assert_eq!(bits(&layer.forward(&half)?)?, bits(&rounded)?);
            }
        }
    }
    Ok(())
}

#[test]
fn an_outlier_costs_the_precision_of_its_group_alone() -> Result<()> {
    let layer = layer(70, COLS, Granularity::PerTensor, false)?;
    let layer = layer.with_activations(ActivationMode::F32);
    // The outlier's group is multiplied as it is.
    let x = (0..COLS).map(|k| match k {
        0 => 127.0,
        1..32 => 0.0,
        _ => (k * 37 % 101) as f32 / 101.0 - 0.5,
    });
    let x = Tensor::from_vec(x.collect::<Vec<f32>>(), (1, COLS), &Device::Cpu)?;
    let exact = layer.forward(&x)?;
    let step = layer.linear().scales().expect("memory").values()[0] * 0.5 / 127.0;
    let bound = exact
        .ones_like()?
        .affine((step * COLS as f32 / 2.0).into(), 0.0)?;
    let int8 = layer.with_activations(ActivationMode::Int8);
    let lost = |y: &Tensor| (y - &exact)?.sqr()?.sum_all()?.to_scalar::<f32>();
    let alone = int8.forward(&x)?;
    let grouped = int8
        .with_activation_group(Some(GroupSize::G32))
        .forward(&x)?;
    // Half a step of at most 0.5 / 127 for each activation.
    common::assert_within(&grouped, &exact, &bound)?;
    assert!(lost(&grouped)? * 100.0 < lost(&alone)?);
    Ok(())
}

#[test]
fn groups_reach_the_experts() -> Result<()> {
    let group = GroupSize::G32;
    let one = |_| {
        let layer = layer(70, COLS, Granularity::PerRow, true)?;
        Ok(layer.with_activation_group(Some(group)))
    };
    let layers = (0..3).map(one).collect::<Result<Vec<_>>>()?;
    let plain = layers
        .iter()
        .map(|layer| layer.clone().with_activation_group(None));
    let (experts, plain) = (
        BitExperts::new(layers.clone())?,
        BitExperts::new(plain.collect())?,
    );
    let x = random(&[4, COLS])?;
    let indices = Tensor::new(&[[0u32], [2], [1], [2]], &Device::Cpu)?;
    let rows = BitExperts::forward_many(&[&experts, &plain], &x, &indices)?;
    let weights = Tensor::ones((4, 1), DType::F32, &Device::Cpu)?;
    let weighted = experts.forward_weighted(&x, &indices, &weights)?;
    for (token, expert) in [0, 2, 1, 2].into_iter().enumerate() {
        let expected = core(&layers[expert], &x.narrow(0, token, 1)?, group)?;
        assert_eq!(bits(&rows[0].narrow(0, token, 1)?)?, expected);
        assert_eq!(bits(&weighted.narrow(0, token, 1)?)?, expected);
        assert_ne!(bits(&rows[1].narrow(0, token, 1)?)?, expected);
    }
    let mixed = vec![
        layers[0].clone(),
        layers[1].clone().with_activation_group(None),
    ];
    let error = BitExperts::new(mixed).expect_err("other groups");
    assert!(error.to_string().contains("expert 1"), "{error}");
    Ok(())
}

#[test]
fn a_preparation_has_the_groups_of_its_layers() -> Result<()> {
    let plain = layer(8, COLS, Granularity::PerRow, false)?;
    let [by_32, by_64] = [GroupSize::G32, GroupSize::G64]
        .map(|group| plain.clone().with_activation_group(Some(group)));
    let x = random(&[2, COLS])?;
    let cases = [
        (
            &plain,
            &by_32,
            "a scale for each token, the layer has one for each 32 act",
        ),
        (
            &by_32,
            &plain,
            "each 32 activations, the layer has one for each token",
        ),
        (
            &by_32,
            &by_64,
            "each 32 activations, the layer has one for each 64",
        ),
    ];
    for (from, to, message) in cases {
        let prepared = from.prepare(&x)?;
        for error in [
            to.forward_prepared(&prepared).map(|_| ()),
            BitLinear::forward_many_prepared(&[from, to], &prepared).map(|_| ()),
        ] {
            let error = error.expect_err(message).to_string();
            assert!(error.contains(message), "{error}");
        }
    }
    // f32 activations have no scales, so that none of them differ.
    let [plain, by_32] = [plain, by_32].map(|l| l.with_activations(ActivationMode::F32));
    let prepared = plain.prepare(&x)?;
    let [a, b] = [&plain, &by_32].map(|l| l.forward_prepared(&prepared));
    assert_eq!(bits(&a?)?, bits(&b?)?);
    Ok(())
}

#[test]
fn gradients_do_not_see_the_groups() -> Result<()> {
    let plain = layer(9, COLS, Granularity::PerRow, false)?;
    let grouped = plain.clone().with_activation_group(Some(GroupSize::G32));
    let x = Var::from_tensor(&random(&[2, COLS])?)?;
    let gradient = |layer: &BitLinear| {
        let gradients = layer.forward(x.as_tensor())?.sum_all()?.backward()?;
        bits(gradients.get(&x).expect("x is a variable"))
    };
    assert_eq!(gradient(&grouped)?, gradient(&plain)?);
    Ok(())
}
