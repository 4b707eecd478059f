//! Products against candle's own dense ones.

mod common;
mod dense;

use candle_core::{DType, Device, Error, Module, Result, Tensor, Var};
use common::{layer, random};
use dense::{bound, dense};
use half::bf16;
use tritgemm::{Backend, Granularity, GroupSize, MatRef, Scales, TernaryMatrix};
use tritgemm_candle::{ActivationMode, BitLinear, Parallelism, PreparedInput, forward_many};

const GRANULARITIES: [Granularity; 3] = [
    Granularity::PerTensor,
    Granularity::PerRow,
    Granularity::PerGroup(GroupSize::G64),
];

#[test]
fn f32_products_are_candles_dense_ones_within_rounding() -> Result<()> {
    for granularity in GRANULARITIES {
        for (rows, cols) in [(1, 1), (3, 5), (64, 240), (130, 517)] {
            for bias in [false, true] {
                let layer =
                    layer(rows, cols, granularity, bias)?.with_activations(ActivationMode::F32);
                for leading in [
                    vec![],
                    vec![1],
                    vec![40],
                    vec![2, 3],
                    vec![2, 1, 9],
                    vec![0, 4],
                ] {
                    let x = random(&[&leading[..], &[cols]].concat())?;
                    let y = layer.forward(&x)?;
                    assert_eq!(y.dims(), [&leading[..], &[rows]].concat());
                    common::assert_within(&y, &dense(&layer, &x)?, &bound(&layer, &x)?)?;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn int8_sums_are_exact() -> Result<()> {
    let (rows, cols) = (70, 333);
    let trits: Vec<i8> = (0..rows * cols).map(|i| (i * 7919 % 3) as i8 - 1).collect();
    let matrix = TernaryMatrix::from_trits(
        MatRef::new(&trits, rows, cols).unwrap(),
        Scales::per_tensor(1.0),
    );
    let layer = BitLinear::new(&matrix.unwrap(), None)?;
    for tokens in [1, 5, 64] {
        // The largest value is 127, so quantising changes nothing.
        let x: Vec<i32> = (0..tokens * cols)
            .map(|i| {
                if i % cols == 0 {
                    127
                } else {
                    (i * 104_729 % 255) as i32 - 127
                }
            })
            .collect();
        let floats = x.iter().map(|&v| v as f32).collect::<Vec<_>>();
        let y = layer.forward(&Tensor::from_vec(floats, (tokens, cols), &Device::Cpu)?)?;
        let y = y.to_vec2::<f32>()?;
        for (token, x) in x.chunks(cols).enumerate() {
            for (row, trits) in trits.chunks(cols).enumerate() {
                let sum: i32 = x.iter().zip(trits).map(|(x, &w)| x * i32::from(w)).sum();
                assert_eq!(y[token][row], sum as f32, "token {token}, row {row}");
            }
        }
    }
    Ok(())
}

#[test]
fn strided_inputs_give_the_bits_of_dense_ones() -> Result<()> {
    for mode in [ActivationMode::Int8, ActivationMode::F32] {
        let layer = layer(65, 40, Granularity::PerRow, true)?.with_activations(mode);
        let wide = random(&[6, 3, 100])?;
        let inputs = [
            wide.narrow(2, 13, 40)?,
            wide.narrow(2, 0, 40)?.narrow(1, 1, 2)?,
            random(&[5, 40, 7])?.transpose(1, 2)?,
            random(&[1, 40])?.broadcast_as((4, 40))?,
        ];
        for x in inputs {
            assert!(!x.is_contiguous());
            let (y, expected) = (layer.forward(&x)?, layer.forward(&x.contiguous()?)?);
            assert_eq!(
                common::bits(&y)?,
                common::bits(&expected)?,
                "{:?}",
                x.layout()
            );
        }
    }
    Ok(())
}

#[test]
fn half_inputs_are_widened_and_their_outputs_rounded() -> Result<()> {
    for mode in [ActivationMode::Int8, ActivationMode::F32] {
        let layer = layer(66, 250, Granularity::PerRow, true)?.with_activations(mode);
        for dtype in [DType::F16, DType::BF16] {
            let x = random(&[9, 250])?.to_dtype(dtype)?;
            let y = layer.forward(&x)?;
            let expected = layer.forward(&x.to_dtype(DType::F32)?)?.to_dtype(dtype)?;
            assert_eq!(y.dtype(), dtype);
            assert_eq!(
                common::bits(&y)?,
                common::bits(&expected)?,
                "{mode:?} {dtype:?}"
            );
        }
    }
    Ok(())
}

#[test]
fn many_layers_on_one_input_give_the_bits_of_each() -> Result<()> {
    let grouped = Granularity::PerGroup(GroupSize::G128);
    let float = |layer: BitLinear| layer.with_activations(ActivationMode::F32);
    let layers = [
        layer(128, 300, Granularity::PerRow, true)?,
        float(layer(32, 300, grouped, false)?),
        layer(33, 300, Granularity::PerTensor, false)?,
        float(layer(7, 300, Granularity::PerRow, false)?),
        layer(64, 300, grouped, true)?,
        float(layer(70, 300, grouped, true)?),
        layer(5, 300, Granularity::PerRow, true)?.with_parallelism(Parallelism::Serial),
    ];
    let layers = layers.each_ref();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for x in [random(&[2, 6, 300])?, random(&[300])?, random(&[0, 300])?] {
            let x = x.to_dtype(dtype)?;
            same_as_single(&layers, &x, &BitLinear::forward_many(&layers, &x)?)?;
            same_as_single(&layers, &x, &forward_many(layers, &x)?)?;
            for alike in [&[0, 2, 6][..], &[1, 5], &[3], &[4]] {
                let alike: Vec<&BitLinear> = alike.iter().map(|&i| layers[i]).collect();
                let prepared = alike[0].prepare(&x)?;
                let outputs = BitLinear::forward_many_prepared(&alike, &prepared)?;
                same_as_single(&alike, &x, &outputs)?;
            }
        }
    }
    assert!(BitLinear::forward_many(&[], &random(&[1])?)?.is_empty());
    Ok(())
}

fn same_as_single(layers: &[&BitLinear], x: &Tensor, outputs: &[Tensor]) -> Result<()> {
    assert_eq!(outputs.len(), layers.len());
    for (i, (layer, y)) in layers.iter().zip(outputs).enumerate() {
        let expected = layer.forward(x)?;
        let what = format!("layer {i}, {:?} of {:?}", x.shape(), x.dtype());
        assert_eq!(
            (y.dims(), y.dtype()),
            (expected.dims(), x.dtype()),
            "{what}"
        );
        assert_eq!(common::bits(y)?, common::bits(&expected)?, "{what}");
    }
    Ok(())
}

#[test]
fn threads_do_not_change_a_bit() -> Result<()> {
    let base = [512, 65].map(|rows| layer(rows, 640, Granularity::PerRow, false));
    let base = base.into_iter().collect::<Result<Vec<_>>>()?;
    let x = random(&[33, 640])?;
    let run = |parallelism| -> Result<Vec<Vec<u32>>> {
        let layers = base.iter().cloned();
        let layers: Vec<_> = layers.map(|l| l.with_parallelism(parallelism)).collect();
        let mut outputs = layers
            .iter()
            .map(|l| l.forward(&x))
            .collect::<Result<Vec<_>>>()?;
        let layers: Vec<_> = layers.iter().collect();
        outputs.extend(BitLinear::forward_many(&layers, &x)?);
        outputs.iter().map(common::bits).collect()
    };
    let expected = run(Parallelism::Serial)?;
    assert_eq!(expected[..2], expected[2..]);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(3)
        .build()
        .unwrap();
    for parallelism in [
        Parallelism::Global,
        Parallelism::Caller,
        Parallelism::Serial,
    ] {
        assert_eq!(run(parallelism)?, expected);
        assert_eq!(pool.install(|| run(parallelism))?, expected);
    }
    Ok(())
}

#[test]
fn weights_in_the_cache_change_no_bit() -> Result<()> {
    for mode in [ActivationMode::Int8, ActivationMode::F32] {
        let layer = layer(130, 640, Granularity::PerRow, true)?.with_activations(mode);
        assert!(!layer.weights_in_cache());
        let cached = layer.clone().with_weights_in_cache(true);
        assert!(cached.weights_in_cache());
        for tokens in [1, 3, 40] {
            let x = random(&[tokens, 640])?;
            let expected = common::bits(&layer.forward(&x)?)?;
            // Backends have kernels of their own for a single token.
            for backend in Backend::available() {
                tritgemm::pin(Some(backend.name())).map_err(Error::wrap)?;
                for layer in [&layer, &cached] {
                    assert_eq!(common::bits(&layer.forward(&x)?)?, expected);
                    let prepared = layer.prepare(&x)?;
                    let y = layer.forward_prepared(&prepared)?;
                    assert_eq!(common::bits(&y)?, expected);
                }
            }
            tritgemm::pin(None).map_err(Error::wrap)?;
        }
    }
    Ok(())
}

#[test]
fn input_gradients_are_candles_dense_ones_within_rounding() -> Result<()> {
    for granularity in GRANULARITIES {
        let layer = layer(70, 150, granularity, true)?.with_activations(ActivationMode::F32);
        let x = Var::from_tensor(&random(&[4, 150])?)?;
        // Weights that make every output's gradient another.
        let towards = random(&[4, 70])?;
        let loss = layer.forward(x.as_tensor())?.mul(&towards)?.sum_all()?;
        let ours = loss.backward()?.get(&x).expect("x is a variable").clone();
        let loss = dense(&layer, x.as_tensor())?.mul(&towards)?.sum_all()?;
        let dense = loss.backward()?.get(&x).expect("x is a variable").clone();

        let weights = dense::weights(&layer)?.abs()?;
        let magnitude = towards.abs()?.matmul(&weights)?;
        let bound = (magnitude * dense::rounding(70))?;
        common::assert_within(&ours, &dense, &bound)?;
        let norm = dense.sqr()?.sum_all()?.to_scalar::<f32>()?;
        assert!(norm > 1.0, "a gradient of nothing shows nothing: {norm}");

        // int8 activations count as an estimator that lets gradients through,
        // and a shared input as the input itself.
        let layer = layer.with_activations(ActivationMode::Int8);
        let shared = layer.prepare(x.as_tensor())?;
        let wide = common::layer(9, 150, granularity, false)?;
        let [_, of_many] = forward_many([&wide, &layer], x.as_tensor())?;
        for y in [
            layer.forward(x.as_tensor())?,
            layer.forward_prepared(&shared)?,
            of_many,
        ] {
            let loss = y.mul(&towards)?.sum_all()?;
            let through = loss.backward()?.get(&x).expect("x is a variable").clone();
            assert_eq!(common::bits(&through)?, common::bits(&ours)?);
        }
    }
    Ok(())
}

#[test]
fn gradients_of_many_layers_on_one_input_add_up() -> Result<()> {
    for dtype in [DType::F32, DType::BF16] {
        let layers = [(70, ActivationMode::F32), (33, ActivationMode::Int8)];
        let layers = layers.map(|(rows, mode)| {
            Ok(layer(rows, 150, Granularity::PerRow, true)?.with_activations(mode))
        });
        let layers = layers.into_iter().collect::<Result<Vec<_>>>()?;
        let x = Var::from_tensor(&random(&[2, 3, 150])?.to_dtype(dtype)?)?;
        let gradient = |outputs: Vec<Tensor>| {
            let sums = outputs.iter().map(|y| y.sqr()?.sum_all());
            let sums = sums.collect::<Result<Vec<_>>>()?;
            let gradients = (&sums[0] + &sums[1])?.backward()?;
            common::bits(gradients.get(&x).expect("x is a variable"))
        };
        let single = layers.iter().map(|l| l.forward(&x));
        let single = gradient(single.collect::<Result<_>>()?)?;
        let many = BitLinear::forward_many(&[&layers[0], &layers[1]], &x)?;
        assert_eq!(gradient(many)?, single, "{dtype:?}");
        assert!(single.iter().any(|&bits| bits != 0));
    }
    Ok(())
}

#[test]
fn wrong_inputs_are_errors_that_say_what_was_expected() -> Result<()> {
    let layer = layer(8, 16, Granularity::PerRow, false)?;
    let f32s = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu);
    let nan = Tensor::full(f32::NAN, (1, 16), &Device::Cpu)?;
    let by_group = common::layer(8, 16, Granularity::PerGroup(GroupSize::G64), false)?;
    let grouped = by_group.prepare(&f32s(&[1, 16])?)?;
    let by_f32 = layer.clone().with_activations(ActivationMode::F32);
    let float = by_f32.prepare(&f32s(&[1, 16])?)?;
    let narrow = common::layer(8, 15, Granularity::PerRow, false)?;
    let many = |layers: &[&BitLinear], x: &Tensor| {
        BitLinear::forward_many(layers, x).map(|ys| ys[0].clone())
    };
    let many_prepared = |layers: &[&BitLinear], x: &PreparedInput| {
        BitLinear::forward_many_prepared(layers, x).map(|ys| ys[0].clone())
    };
    let cases = [
        (
            layer.forward(&f32s(&[2, 17])?),
            "expected: [2, 16], got: [2, 17]",
        ),
        (
            layer.forward(&f32s(&[])?),
            "unexpected rank, expected: 1, got: 0",
        ),
        (
            layer.forward(&f32s(&[2, 16])?.to_dtype(DType::F64)?),
            "f16 or bf16, expected: F32, got: F64",
        ),
        (
            layer.forward(&f32s(&[2, 16])?.to_dtype(DType::U8)?),
            "got: U8",
        ),
        (layer.forward(&nan), "activation 0 of token 0 is NaN"),
        (
            layer.forward_prepared(&grouped),
            "groups of 64, the matrix has no groups",
        ),
        (
            layer.forward_prepared(&float),
            "activations prepared as f32, expected int8",
        ),
        (
            layer
                .prepare(&f32s(&[])?)
                .and_then(|x| layer.forward_prepared(&x)),
            "unexpected rank, expected: 1, got: 0",
        ),
        (
            forward_many([&layer], &f32s(&[3])?).map(|[y]| y),
            "expected: [16], got: [3]",
        ),
        (
            many(&[&layer, &narrow], &f32s(&[2, 16])?),
            "expected: [2, 15], got: [2, 16]",
        ),
        (
            many(&[&by_f32, &layer], &nan),
            "activation 0 of token 0 is NaN",
        ),
        (
            many_prepared(&[&by_group, &layer], &grouped),
            "groups of 64, the matrix has no groups",
        ),
        (
            many_prepared(&[&by_f32, &layer], &float),
            "activations prepared as f32, expected int8",
        ),
        (
            many_prepared(&[&by_f32, &narrow], &float),
            "expected: [1, 15], got: [1, 16]",
        ),
    ];
    for (i, (result, message)) in cases.into_iter().enumerate() {
        let error = result.expect_err(message).to_string();
        assert!(error.contains(message), "case {i}: {error}");
    }
    Ok(())
}

#[test]
fn no_tokens_and_no_features_are_products_too() -> Result<()> {
    let layer = layer(8, 16, Granularity::PerRow, true)?;
    let y = layer.forward(&Tensor::zeros((0, 16), DType::BF16, &Device::Cpu)?)?;
    assert_eq!((y.dims(), y.dtype()), (&[0, 8][..], DType::BF16));
    assert!(y.flatten_all()?.to_vec1::<bf16>()?.is_empty());
    let matrix =
        TernaryMatrix::from_trits(MatRef::new(&[], 2, 0).unwrap(), Scales::per_tensor(1.0))
            .unwrap();
    let layer = BitLinear::new(&matrix, Some(vec![1.0, 2.0]))?;
    let y = layer.forward(&Tensor::zeros((3, 0), DType::F32, &Device::Cpu)?)?;
    assert_eq!(y.to_vec2::<f32>()?, [[1.0, 2.0]; 3]);
    Ok(())
}
