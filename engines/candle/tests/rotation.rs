//! Layers that rotate their input, and single rows of tables: the core's bits, also beside
//! layers that do not.

mod common;

use candle_core::{DType, Device, Module, Result, Tensor, Var};
use candle_nn::Embedding;
use common::{bits, layer, random};
use tritgemm::{
    Granularity, GroupSize, Grouped, Linear, MatMut, MatRef, MatrixError, Rotation, Scales,
    TernaryMatrix, Workspace,
};
use tritgemm_candle::{ActivationMode, BitExperts, BitLinear, forward_many};

const COLS: usize = 320;
const GRANULARITIES: [Granularity; 2] =
    [Granularity::PerRow, Granularity::PerGroup(GroupSize::G64)];
const MODES: [ActivationMode; 2] = [ActivationMode::Int8, ActivationMode::F32];

fn signs() -> Vec<i8> {
    (0..COLS)
        .map(|i| if i * i % 7 < 3 { -1 } else { 1 })
        .collect()
}

/// The layer with a rotation.
fn rotated(layer: &BitLinear, block: usize) -> BitLinear {
    let rotation = Rotation::new(block, Some(&signs())).expect("a rotation");
    let linear = layer.linear().clone().with_rotation(rotation);
    BitLinear::from(linear.expect("whole blocks"))
        .with_activations(layer.activations())
        .with_activation_group(layer.activation_group())
}

/// What the core makes of `x` `[tokens, COLS]` in f32.
fn core(layer: &BitLinear, x: &Tensor) -> Result<Vec<u32>> {
    let (tokens, linear) = (x.dims()[0], layer.linear());
    let x = x.flatten_all()?.to_vec1::<f32>()?;
    let x = MatRef::new(&x, tokens, COLS).unwrap();
    let mut y = vec![0.0f32; tokens * linear.out_features()];
    let to = MatMut::new(&mut y, tokens, linear.out_features()).unwrap();
    let ws = &mut Workspace::new();
    match (layer.activations(), layer.activation_group()) {
        (ActivationMode::F32, _) => linear.forward_f32(x, to, ws),
        (_, None) => linear.forward_int8(x, to, ws),
        (_, Some(group)) => linear.forward_int8(Grouped(x, group), to, ws),
    }
    .unwrap();
    Ok(y.into_iter().map(f32::to_bits).collect())
}

#[test]
fn rotated_layers_give_the_cores_bits() -> Result<()> {
    for granularity in GRANULARITIES {
        for mode in MODES {
            for group in [None, Some(GroupSize::G32)] {
                let plain = layer(70, COLS, granularity, true)?
                    .with_activations(mode)
                    .with_activation_group(group);
                let [by_64, by_2] = [64, 2].map(|block| rotated(&plain, block));
                for tokens in [1, 3, 40] {
                    let x = random(&[tokens, COLS])?;
                    let expected = core(&by_64, &x)?;
                    assert_ne!(expected, core(&plain, &x)?);
                    assert_eq!(bits(&by_64.forward(&x)?)?, expected);
                    let prepared = by_64.prepare(&x)?;
                    assert_eq!(bits(&by_64.forward_prepared(&prepared)?)?, expected);
                    // Beside itself, another rotation and none.
                    let ys = forward_many([&plain, &by_64, &by_2, &by_64.clone()], &x)?;
                    for (y, layer) in ys.iter().zip([&plain, &by_64, &by_2, &by_64]) {
                        assert_eq!(bits(y)?, core(layer, &x)?);
                    }
                    let half = x.to_dtype(DType::BF16)?;
                    let wide = by_64.forward(&half.to_dtype(DType::F32)?)?;
                    let rounded = wide.to_dtype(DType::BF16)?;
                    assert_eq!(bits(&by_64.forward(&half)?)?, bits(&rounded)?);
                }
            }
        }
    }
    Ok(())
}

#[test]
fn experts_rotate() -> Result<()> {
    let x = random(&[4, COLS])?;
    let indices = Tensor::new(&[[0u32], [2], [1], [2]], &Device::Cpu)?;
    let weights = Tensor::ones((4, 1), DType::F32, &Device::Cpu)?;
    for mode in MODES {
        let one = |_| Ok(layer(70, COLS, Granularity::PerRow, true)?.with_activations(mode));
        let plain = (0..3).map(one).collect::<Result<Vec<_>>>()?;
        let layers: Vec<_> = plain.iter().map(|layer| rotated(layer, 32)).collect();
        let all = [&plain, &layers].map(|layers| BitExperts::new(layers.clone()).expect("alike"));
        let rows = BitExperts::forward_many(&[&all[0], &all[1]], &x, &indices)?;
        for ((rows, experts), layers) in rows.iter().zip(&all).zip([&plain, &layers]) {
            let weighted = experts.forward_weighted(&x, &indices, &weights)?;
            for (token, expert) in [0, 2, 1, 2].into_iter().enumerate() {
                let expected = core(&layers[expert], &x.narrow(0, token, 1)?)?;
                assert_eq!(bits(&rows.narrow(0, token, 1)?)?, expected);
                assert_eq!(bits(&weighted.narrow(0, token, 1)?)?, expected);
            }
        }
        let mixed = BitExperts::new(vec![layers[0].clone(), plain[1].clone()]);
        let error = mixed.expect_err("another rotation").to_string();
        assert!(error.contains("rotated blocks of 32"), "{error}");
    }
    Ok(())
}

#[test]
fn what_does_not_fit_a_rotation_is_an_error() -> Result<()> {
    let x = Var::from_tensor(&random(&[2, COLS])?)?;
    for mode in MODES {
        let plain = layer(8, COLS, Granularity::PerRow, false)?.with_activations(mode);
        let [by_32, by_64] = [32, 64].map(|block| rotated(&plain, block));
        let no = "no rotation";
        for (from, to, has, wants) in [
            (&plain, &by_32, no, "blocks of 32"),
            (&by_32, &plain, "blocks of 32", no),
            (&by_32, &by_64, "blocks of 32", "blocks of 64"),
        ] {
            let prepared = from.prepare(&x)?;
            for error in [
                to.forward_prepared(&prepared).map(drop),
                BitLinear::forward_many_prepared(&[from, to], &prepared).map(drop),
            ] {
                let error = error.expect_err("another rotation").to_string();
                assert!(error.contains(has) && error.contains(wants), "{error}");
            }
        }
        // It would be the gradient of what was rotated.
        let error = by_32.forward(&x)?.sum_all()?.backward().expect_err("none");
        assert!(error.to_string().contains("rotates its input"), "{error}");

        let narrow = x.narrow(1, 0, COLS - 1)?;
        by_32.forward(&narrow).expect_err("too narrow");
        let linear = plain.linear().clone();
        let block = linear.with_rotation(Rotation::new(256, None).expect("alone"));
        let error = block.expect_err("320 are no whole blocks");
        assert!(error.to_string().contains("blocks of 256"), "{error}");
        if mode == ActivationMode::Int8 {
            let infinite = x.affine(f64::INFINITY, 0.0)?;
            by_32.forward(&infinite).expect_err("infinite");
        }
    }
    Ok(())
}

/// A row of a layer's weights, turned back if the layer rotates.
fn row(layer: &BitLinear, row: usize) -> std::result::Result<Vec<f32>, MatrixError> {
    let mut values = vec![f32::NAN; layer.in_features()];
    layer.linear().unpack_row(row, &mut values)?;
    if let Some(rotation) = layer.linear().rotation() {
        rotation.invert(&mut values)?;
    }
    Ok(values)
}

/// One table for the look-up and for the output layer: the rows of candle's own embedding.
#[test]
fn rows_of_a_tied_head_are_those_of_an_embedding() -> Result<()> {
    const VOCABULARY: usize = 130;
    let ids = [129usize, 0, 64, 7, 7];
    let indices = Tensor::from_iter(ids.map(|id| id as u32), &Device::Cpu)?;
    for granularity in GRANULARITIES {
        let count = granularity.scales(VOCABULARY, COLS).expect("few");
        let scales: Vec<f32> = (0..count).map(|i| 0.01 + i as f32 / 64.0).collect();
        let scales = match granularity {
            Granularity::PerGroup(size) => Scales::per_group(size, scales),
            _ => Scales::per_row(scales),
        };
        let trits: Vec<i8> = (0..VOCABULARY * COLS)
            .map(|i| (i * i / 7 % 3) as i8 - 1)
            .collect();
        let trits = MatRef::new(&trits, VOCABULARY, COLS).unwrap();
        let matrix = TernaryMatrix::from_trits(trits, scales).expect("trits");
        let dense = matrix.to_f32().expect("memory");
        let dense = Tensor::from_vec(dense, (VOCABULARY, COLS), &Device::Cpu)?;
        let embedding = Embedding::new(dense, COLS).forward(&indices)?;
        let head = BitLinear::new(&matrix, Some(vec![0.5; VOCABULARY])).expect("a layer");
        let looked_up = |head: &BitLinear| {
            let rows = ids.map(|id| row(head, id).expect("a row"));
            Tensor::from_vec(rows.concat(), (ids.len(), COLS), &Device::Cpu)
        };
        assert_eq!(bits(&looked_up(&head)?)?, bits(&embedding)?);

        // The rows of a rotated table, turned back, are what its rotation undoes: a
        // product with them is the plain product of the rotated rows.
        let turned = rotated(&head, 64).with_activations(ActivationMode::F32);
        let rotation = turned.linear().rotation().expect("a rotation");
        let mut back = embedding.flatten_all()?.to_vec1::<f32>()?;
        for row in back.chunks_mut(COLS) {
            rotation.invert(row).expect("whole blocks");
        }
        let back = Tensor::from_vec(back, (ids.len(), COLS), &Device::Cpu)?;
        let rows = looked_up(&turned)?;
        assert_eq!(bits(&rows)?, bits(&back)?);
        assert_eq!(bits(&turned.forward(&rows)?)?, core(&turned, &rows)?);
        let plain = head.clone().with_activations(ActivationMode::F32);
        let (a, b) = (turned.forward(&rows)?, plain.forward(&embedding)?);
        common::assert_within(&a, &b, &b.abs()?.affine(1e-4, 1e-2)?)?;

        for head in [&head, &turned] {
            let error = row(head, VOCABULARY).expect_err("no such row");
            assert!(error.to_string().contains("130"), "{error}");
            let error = head.linear().unpack_row(0, &mut [0.0; COLS - 1]);
            assert!(
                matches!(error, Err(MatrixError::Length { .. })),
                "{error:?}"
            );
        }
        let error = rotation
            .invert(&mut [0.0; COLS - 1])
            .expect_err("no blocks");
        assert!(
            matches!(error, MatrixError::RotationBlock { .. }),
            "{error}"
        );
    }
    Ok(())
}

/// A rotated layer is saved and read with its rotation.
#[test]
fn rotations_are_in_files() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let layer = rotated(&layer(70, COLS, Granularity::PerRow, true)?, 64);
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("layer.panels");
    layer.save(&path)?;
    let x = random(&[3, COLS])?;
    let same = |read: &Linear| assert_eq!(read.rotation(), layer.linear().rotation());
    let read = BitLinear::load(&path)?;
    same(read.linear());
    assert_eq!(bits(&read.forward(&x)?)?, bits(&layer.forward(&x)?)?);
    Ok(())
}
