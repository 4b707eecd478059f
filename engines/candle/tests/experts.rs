//! Experts of mixtures: the bits and the gradients of each layer by itself.

mod common;

use candle_core::{DType, Device, Module, Result, Tensor, Var};
use common::{bits, layer, random};
use tritgemm::{Granularity, GroupSize, MatRef, Scales, TernaryMatrix};
use tritgemm_candle::{ActivationMode, BitExperts, BitLinear, LoadError, Parallelism};

const MODES: [ActivationMode; 2] = [ActivationMode::Int8, ActivationMode::F32];
const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];
const COLS: usize = 150;
const GROUPED: Granularity = Granularity::PerGroup(GroupSize::G64);

/// Experts of `rows` x [`COLS`] and the layers that they are made of. Every other one has a
/// bias.
fn experts(
    count: usize,
    rows: usize,
    granularity: Granularity,
    mode: ActivationMode,
) -> Result<(BitExperts, Vec<BitLinear>)> {
    let one =
        |i: usize| Ok(layer(rows, COLS, granularity, i.is_multiple_of(2))?.with_activations(mode));
    let layers = (0..count).map(one).collect::<Result<Vec<_>>>()?;
    Ok((BitExperts::new(layers.clone())?, layers))
}

/// `[tokens, k]` numbers below `experts`; some experts get nothing.
fn indices(tokens: usize, k: usize, experts: u32) -> Result<Tensor> {
    let numbers = (0..tokens * k).map(|i| (i * i + i / 7) as u32 % experts);
    Tensor::from_vec(numbers.collect(), (tokens, k), &Device::Cpu)
}

/// The rows `[N, k, M]` by the layers alone, one at a time.
fn alone(layers: &[BitLinear], x: &Tensor, indices: &Tensor) -> Result<Tensor> {
    let (tokens, k) = indices.dims2()?;
    let mut rows = Vec::new();
    for (n, experts) in indices.to_vec2::<u32>()?.into_iter().enumerate() {
        for (j, expert) in experts.into_iter().enumerate() {
            let x = x.narrow(0, n, 1)?;
            let x = match x.rank() {
                2 => x,
                _ => x.narrow(1, j, 1)?.squeeze(1)?,
            };
            rows.push(layers[expert as usize].forward(&x)?);
        }
    }
    Tensor::cat(&rows, 0)?.reshape((tokens, k, layers[0].out_features()))
}

/// The sums `[N, M]` of rows times their weights in the order of the experts, in f32.
fn weighted(rows: &Tensor, indices: &Tensor, weights: &Tensor) -> Result<Tensor> {
    let (tokens, k, m) = rows.dims3()?;
    let (rows, indices) = (rows.to_vec3::<f32>()?, indices.to_vec2::<u32>()?);
    let weights = weights.to_vec2::<f32>()?;
    let mut sums = vec![0.0; tokens * m];
    for n in 0..tokens {
        let mut order: Vec<usize> = (0..k).collect();
        order.sort_by_key(|&j| indices[n][j]);
        for j in order {
            for (sum, row) in sums[n * m..][..m].iter_mut().zip(&rows[n][j]) {
                *sum += weights[n][j] * row;
            }
        }
    }
    Tensor::from_vec(sums, (tokens, m), &Device::Cpu)
}

#[test]
fn rows_have_the_bits_of_each_layer() -> Result<()> {
    for mode in MODES {
        for granularity in [Granularity::PerRow, GROUPED] {
            let (up, up_layers) = experts(5, 70, granularity, mode)?;
            let (gate, gate_layers) = experts(5, 33, granularity, mode)?;
            for dtype in DTYPES {
                for (tokens, k) in [(1, 2), (3, 1), (40, 3)] {
                    let indices = indices(tokens, k, 5)?;
                    let wide = random(&[tokens, k, 2 * COLS])?.to_dtype(dtype)?;
                    for x in [
                        random(&[tokens, COLS])?.to_dtype(dtype)?,
                        wide.narrow(2, 20, COLS)?,
                    ] {
                        let many = BitExperts::forward_many(&[&up, &gate], &x, &indices)?;
                        for (rows, layers) in many.iter().zip([&up_layers, &gate_layers]) {
                            let expected = alone(layers, &x, &indices)?;
                            assert_eq!(rows.dims(), expected.dims());
                            assert_eq!(rows.dtype(), dtype);
                            let what = format!("{mode:?}, {:?} of {dtype:?}", x.shape());
                            assert_eq!(bits(rows)?, bits(&expected)?, "{what}");
                        }
                        let one = up.forward(&x, &indices)?;
                        assert_eq!(bits(&one)?, bits(&many[0])?);
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn what_is_no_number_has_the_bits_of_each_layer() -> Result<()> {
    let (experts, layers) = experts(4, 33, Granularity::PerRow, ActivationMode::F32)?;
    let indices = indices(6, 2, 4)?;
    let mut x = random(&[6 * COLS])?.to_vec1::<f32>()?;
    (x[3], x[COLS + 1], x[2 * COLS]) = (f32::NAN, f32::NEG_INFINITY, 1e30);
    let x = Tensor::from_vec(x, (6, COLS), &Device::Cpu)?;
    for dtype in DTYPES {
        let x = x.to_dtype(dtype)?;
        let (rows, expected) = (
            experts.forward(&x, &indices)?,
            alone(&layers, &x, &indices)?,
        );
        assert_eq!(bits(&rows)?, bits(&expected)?, "{dtype:?}");
    }
    Ok(())
}

#[test]
fn rows_are_added_by_weight_in_the_order_of_the_experts() -> Result<()> {
    for mode in MODES {
        let (down, layers) = experts(4, 70, Granularity::PerRow, mode)?;
        for dtype in DTYPES {
            for (tokens, k) in [(1, 2), (40, 3)] {
                // Weights that lie a stride apart, as those of a transposed router's do.
                let weights = random(&[k, tokens])?.t()?;
                let indices = indices(tokens, k, 4)?;
                for shape in [&[tokens, COLS][..], &[tokens, k, COLS]] {
                    let x = random(shape)?.to_dtype(dtype)?;
                    let y = down.forward_weighted(&x, &indices, &weights)?;
                    let rows = alone(&layers, &x.to_dtype(DType::F32)?, &indices)?;
                    let expected = weighted(&rows, &indices, &weights)?.to_dtype(dtype)?;
                    assert_eq!((y.dims(), y.dtype()), (&[tokens, 70][..], dtype));
                    let what = format!("{mode:?}, {shape:?} of {dtype:?}");
                    assert_eq!(bits(&y)?, bits(&expected)?, "{what}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn matrices_that_run_in_different_ways_share_an_input() -> Result<()> {
    let kinds = [
        experts(4, 9, Granularity::PerRow, ActivationMode::Int8)?,
        experts(4, 70, GROUPED, ActivationMode::Int8)?,
        experts(4, 33, Granularity::PerTensor, ActivationMode::F32)?,
        experts(4, 9, Granularity::PerTensor, ActivationMode::Int8)?,
    ];
    let (x, indices) = (random(&[11, COLS])?, indices(11, 2, 4)?);
    let matrices = kinds.each_ref().map(|(experts, _)| experts);
    let many = BitExperts::forward_many(&matrices, &x, &indices)?;
    for (rows, (_, layers)) in many.iter().zip(&kinds) {
        assert_eq!(bits(rows)?, bits(&alone(layers, &x, &indices)?)?);
    }
    assert!(BitExperts::forward_many(&[], &x, &indices)?.is_empty());
    Ok(())
}

#[test]
fn threads_do_not_change_a_bit() -> Result<()> {
    for mode in MODES {
        let layers = experts(4, 512, Granularity::PerRow, mode)?.1;
        let x = random(&[48, COLS])?;
        let (indices, weights) = (indices(48, 2, 4)?, random(&[48, 2])?);
        let run = |parallelism| -> Result<[Vec<u32>; 2]> {
            let layers = layers.iter().cloned();
            let layers = layers.map(|layer| layer.with_parallelism(parallelism));
            let experts = BitExperts::new(layers.collect())?;
            Ok([
                bits(&experts.forward(&x, &indices)?)?,
                bits(&experts.forward_weighted(&x, &indices, &weights)?)?,
            ])
        };
        let expected = run(Parallelism::Serial)?;
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build();
        let pool = pool.expect("a thread pool");
        for parallelism in [Parallelism::Global, Parallelism::Caller] {
            assert_eq!(run(parallelism)?, expected);
            assert_eq!(pool.install(|| run(parallelism))?, expected);
        }
    }
    Ok(())
}

/// The gradients of `x` and, where it is part of `y`, of `weights`.
fn gradients(y: &Tensor, towards: &Tensor, of: [&Var; 2]) -> Result<[Option<Tensor>; 2]> {
    let gradients = y.mul(towards)?.sum_all()?.backward()?;
    Ok(of.map(|var| gradients.get(var).cloned()))
}

fn assert_close(a: &Tensor, b: &Tensor) -> Result<()> {
    assert_eq!(a.dtype(), b.dtype());
    let units = match a.dtype() {
        DType::F32 => 1e-5,
        // bf16 sums are rounded at every step by candle's own operations.
        _ => 0.05,
    };
    let b = b.to_dtype(DType::F32)?;
    let most = b.abs()?.max_all()?.to_scalar::<f32>()?;
    assert!(most > 0.1, "a gradient of nothing shows nothing: {most}");
    let bound = (b.ones_like()? * (f64::from(most) * units))?;
    common::assert_within(&a.to_dtype(DType::F32)?, &b, &bound)
}

#[test]
fn gradients_are_those_of_each_layer() -> Result<()> {
    let (tokens, k, m) = (7, 3, 40);
    for mode in MODES {
        for granularity in [Granularity::PerRow, GROUPED] {
            let (down, layers) = experts(5, m, granularity, mode)?;
            let indices = indices(tokens, k, 5)?;
            let weights = Var::from_tensor(&random(&[tokens, k])?)?;
            let constant = weights.as_detached_tensor();
            for (shape, dtype) in [
                (&[tokens, COLS][..], DType::F32),
                (&[tokens, k, COLS], DType::F32),
                (&[tokens, COLS], DType::BF16),
                (&[tokens, k, COLS], DType::BF16),
            ] {
                let x = Var::from_tensor(&random(shape)?.to_dtype(dtype)?)?;
                let (of, fixed) = ([&x, &weights], x.as_detached_tensor());
                let towards = random(&[tokens, k, m])?.to_dtype(dtype)?;
                let rows = down.forward(&x, &indices)?;
                let single = alone(&layers, &x, &indices)?;
                let [ours, _] = gradients(&rows, &towards, of)?;
                let [theirs, _] = gradients(&single, &towards, of)?;
                let (ours, theirs) = (ours.expect("of x"), theirs.expect("of x"));
                assert_close(&ours, &theirs)?;
                if shape.len() == 3 {
                    // Nothing is summed.
                    assert_eq!(bits(&ours)?, bits(&theirs)?);
                }

                let towards = random(&[tokens, m])?.to_dtype(dtype)?;
                let sum = alone(&layers, &x.to_dtype(DType::F32)?, &indices)?
                    .broadcast_mul(&weights.unsqueeze(2)?)?
                    .sum(1)?
                    .to_dtype(dtype)?;
                let theirs = gradients(&sum, &towards, of)?;
                let y = down.forward_weighted(&x, &indices, &weights)?;
                let ours = gradients(&y, &towards, of)?;
                for (ours, theirs) in ours.iter().zip(&theirs) {
                    let (ours, theirs) = (ours.as_ref(), theirs.as_ref());
                    assert_close(ours.expect("of a variable"), theirs.expect("of a variable"))?;
                }
                // Each without the other.
                for (x, weights, tracked) in [(x.as_tensor(), &constant, 0), (&fixed, &weights, 1)]
                {
                    let y = down.forward_weighted(x, &indices, weights)?;
                    let alone = gradients(&y, &towards, of)?;
                    assert!(alone[1 - tracked].is_none());
                    let [alone, both] = [&alone, &ours].map(|g| g[tracked].as_ref());
                    assert_eq!(
                        bits(alone.expect("tracked"))?,
                        bits(both.expect("tracked"))?
                    );
                }
            }
        }
    }
    Ok(())
}

#[test]
fn nothing_is_a_product_too() -> Result<()> {
    // No outputs, and no weights, so that outputs are biases.
    for (rows, cols) in [(0, 16), (2, 0)] {
        let matrix = TernaryMatrix::from_trits(
            MatRef::new(&[], rows, cols).expect("no weights"),
            Scales::per_tensor(1.0),
        );
        let layer = BitLinear::new(&matrix.expect("no weights"), Some(vec![1.5; rows]))?;
        for mode in MODES {
            let experts = BitExperts::new(vec![layer.clone().with_activations(mode); 3])?;
            let x = Var::from_tensor(&Tensor::zeros((4, cols), DType::F32, &Device::Cpu)?)?;
            let (indices, weights) = (indices(4, 2, 3)?, Tensor::full(2f32, (4, 2), &Device::Cpu)?);
            let outputs = [
                (experts.forward(&x, &indices)?, 1.5, 8 * rows),
                (
                    experts.forward_weighted(&x, &indices, &weights)?,
                    6.0,
                    4 * rows,
                ),
            ];
            for (y, value, len) in outputs {
                assert_eq!(y.flatten_all()?.to_vec1::<f32>()?, vec![value; len]);
                let gradients = y.sum_all()?.backward()?;
                let gradient = gradients.get(&x).expect("x is a variable");
                assert_eq!(bits(gradient)?, vec![0; 4 * cols]);
            }
        }
    }
    let (experts, _) = experts(3, 8, Granularity::PerRow, ActivationMode::Int8)?;
    for (tokens, k) in [(0, 2), (4, 0)] {
        let x = Var::from_tensor(&random(&[tokens, COLS])?.to_dtype(DType::BF16)?)?;
        let (indices, weights) = (indices(tokens, k, 3)?, random(&[tokens, k])?);
        let rows = experts.forward(&x, &indices)?;
        assert_eq!(
            (rows.dims(), rows.dtype()),
            (&[tokens, k, 8][..], DType::BF16)
        );
        let y = experts.forward_weighted(&x, &indices, &weights)?;
        assert_eq!(bits(&y)?, vec![0; tokens * 8]);
        for y in [rows, y] {
            let gradients = y.sum_all()?.backward()?;
            let gradient = gradients.get(&x).expect("x is a variable");
            assert_eq!(bits(gradient)?, vec![0; tokens * COLS]);
        }
    }
    Ok(())
}

#[test]
fn experts_are_alike() -> Result<()> {
    let base = || layer(8, COLS, Granularity::PerRow, false);
    let cases = [
        (
            layer(9, COLS, Granularity::PerRow, false)?,
            "`out_features`",
        ),
        (layer(8, 149, Granularity::PerRow, false)?, "`in_features`"),
        (layer(8, COLS, GROUPED, false)?, "groups"),
        (base()?.with_activations(ActivationMode::F32), "expert 1"),
        (base()?.with_parallelism(Parallelism::Serial), "expert 1"),
        (base()?.with_weights_in_cache(true), "expert 1"),
        (
            base()?.with_activation_group(Some(GroupSize::G32)),
            "groups of them",
        ),
    ];
    for (other, message) in cases {
        let error = BitExperts::new(vec![base()?, other]).expect_err(message);
        assert!(
            matches!(
                error,
                LoadError::Experts(_) | LoadError::ExpertSettings { expert: 1 }
            ),
            "{error:?}"
        );
        let error = error.to_string();
        assert!(error.contains(message), "{error}");
    }
    let none = BitExperts::new(Vec::new())?;
    assert_eq!((none.in_features(), none.out_features()), (0, 0));
    Ok(())
}

#[test]
fn wrong_inputs_are_errors_that_say_what_was_expected() -> Result<()> {
    let int8 = ActivationMode::Int8;
    let (fewer, _) = experts(3, 8, Granularity::PerRow, int8)?;
    let (fewer_grouped, _) = experts(3, 8, GROUPED, int8)?;
    let (experts, _) = experts(4, 8, Granularity::PerRow, int8)?;
    let narrow = layer(8, 149, Granularity::PerRow, false)?;
    let narrow = BitExperts::new(vec![narrow; 4])?;
    let zeros = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, &Device::Cpu);
    let x = zeros(&[5, COLS], DType::F32)?;
    let nan = Tensor::full(f32::NAN, (5, COLS), &Device::Cpu)?;
    let indices = indices(5, 2, 3)?;
    let forward = |x: &Tensor, indices: &Tensor| experts.forward(x, indices);
    let weighted = |weights: &Tensor| experts.forward_weighted(&x, &indices, weights);
    let many = |others: &[&BitExperts]| {
        BitExperts::forward_many(others, &x, &indices).map(|rows| rows[0].clone())
    };
    let four = Tensor::new(&[[0u32, 1], [2, 3], [4, 0], [0, 0], [0, 0]], &Device::Cpu)?;
    let cases = [
        (forward(&x, &four), "invalid index 4 with dim size 4"),
        (
            forward(&x, &zeros(&[5, 2], DType::I64)?),
            "the indices of BitExperts, expected: U32, got: I64",
        ),
        (
            forward(&x, &zeros(&[5], DType::U32)?),
            "the indices of BitExperts\nunexpected rank, expected: 2, got: 1",
        ),
        (
            forward(&zeros(&[5, 149], DType::F32)?, &indices),
            "must be [5, 150] or [5, 2, 150] for indices [5, 2], expected: [5, 150], got: [5, 149]",
        ),
        (
            forward(&zeros(&[4, COLS], DType::F32)?, &indices),
            "expected: [5, 150], got: [4, 150]",
        ),
        (
            forward(&zeros(&[5, 3, COLS], DType::F32)?, &indices),
            "got: [5, 3, 150]",
        ),
        (
            forward(&zeros(&[5, COLS], DType::F64)?, &indices),
            "f16 or bf16, expected: F32, got: F64",
        ),
        (forward(&nan, &indices), "activation 0 of token 0 is NaN"),
        (
            weighted(&zeros(&[5, 2], DType::BF16)?),
            "the weights of BitExperts, expected: F32, got: BF16",
        ),
        (
            weighted(&zeros(&[2, 5], DType::F32)?),
            "as many as the indices, expected: [5, 2], got: [2, 5]",
        ),
        (many(&[&experts, &fewer]), "has length 4, expected 3"),
        (
            many(&[&experts, &fewer_grouped]),
            "has length 4, expected 3",
        ),
        (
            many(&[&experts, &narrow]),
            "activations of 150 columns for a matrix of 149",
        ),
    ];
    for (i, (result, message)) in cases.into_iter().enumerate() {
        let error = result.expect_err(message).to_string();
        assert!(error.contains(message), "case {i}: {error}");
    }
    Ok(())
}
