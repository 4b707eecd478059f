//! Layers from files and tensors.

use candle_core::{DType, Device, Module, Tensor};
use candle_nn::VarBuilder;
use std::collections::HashMap;
use tritgemm::{Granularity, GroupSize, MatRef, ModelFile, Scales, TernaryMatrix};
use tritgemm_candle::{ActivationMode, BitLinear, HfLinearClass, LoadError};
use tritgemm_candle::{bit_linear, bit_linear_b, bit_linear_hf, bit_linear_no_bias};

use tritgemm_formats::gguf::Gguf;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

const ROWS: usize = 70;
const COLS: usize = 210;

fn random(shape: &[usize]) -> Result<Tensor> {
    Ok(Tensor::randn(0f32, 1.0, shape, &Device::Cpu)?)
}

/// What `tritgemm quantize` writes for a matrix: bytes and scales.
fn packed(matrix: &TernaryMatrix, scales: &[usize]) -> Result<[Tensor; 2]> {
    let bytes = Tensor::from_slice(
        matrix.packed(),
        (matrix.rows(), matrix.cols().div_ceil(4)),
        &Device::Cpu,
    )?;
    let scales = Tensor::from_slice(matrix.scales().values(), scales, &Device::Cpu)?;
    Ok([bytes, scales])
}

/// A builder of a file that holds `tensors`.
fn builder(tensors: &[(&str, &Tensor)]) -> Result<VarBuilder<'static>> {
    let tensors: HashMap<_, _> = tensors.iter().map(|&(n, t)| (n, t.clone())).collect();
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("model.safetensors");
    candle_core::safetensors::save(&tensors, &path)?;
    let bytes = std::fs::read(path)?;
    // f16, as a model would ask for: the weights must not pass through it.
    Ok(VarBuilder::from_buffered_safetensors(
        bytes,
        DType::F16,
        &Device::Cpu,
    )?)
}

fn same(a: &BitLinear, b: &BitLinear) -> Result {
    assert_eq!(
        a.linear().panels().as_bytes(),
        b.linear().panels().as_bytes()
    );
    let scales = [&a, &b].map(|layer| layer.linear().scales().expect("memory"));
    assert_eq!(scales[0], scales[1]);
    assert_eq!(a.linear().bias(), b.linear().bias());
    let x = random(&[3, COLS])?;
    let (a, b) = (
        a.forward(&x)?.to_vec2::<f32>()?,
        b.forward(&x)?.to_vec2::<f32>()?,
    );
    assert_eq!(a, b);
    Ok(())
}

#[test]
fn dense_weights_are_quantised() -> Result {
    let (weight, bias) = (random(&[ROWS, COLS])?, random(&[ROWS])?);
    let vb = builder(&[("a.weight", &weight), ("a.bias", &bias)])?;
    same(
        &bit_linear(COLS, ROWS, vb.pp("a"))?,
        &BitLinear::quantize(&weight, Some(&bias))?,
    )?;
    same(
        &bit_linear_no_bias(COLS, ROWS, vb.pp("a"))?,
        &BitLinear::quantize(&weight, None)?,
    )?;

    let half = weight.to_dtype(DType::BF16)?;
    let vb = builder(&[("weight", &half)])?;
    same(
        &bit_linear_b(COLS, ROWS, false, vb)?,
        &BitLinear::quantize(&half, None)?,
    )
}

#[test]
fn packed_weights_come_as_they_are() -> Result {
    let latent = random(&[ROWS, COLS])?.flatten_all()?.to_vec1::<f32>()?;
    let bias = random(&[ROWS])?;
    let cases = [
        (Granularity::PerTensor, vec![1]),
        (Granularity::PerRow, vec![ROWS]),
        (Granularity::PerGroup(GroupSize::G64), vec![ROWS, 4]),
        (Granularity::PerGroup(GroupSize::G128), vec![ROWS, 2]),
    ];
    for (granularity, shape) in cases {
        let matrix = TernaryMatrix::quantize(MatRef::new(&latent, ROWS, COLS)?, granularity)?;
        let [bytes, scales] = packed(&matrix, &shape)?;
        let vb = builder(&[
            ("weight", &bytes),
            ("weight.scales", &scales),
            ("bias", &bias),
        ])?;
        let expected = BitLinear::new(&matrix, Some(bias.to_vec1()?))?;
        same(&bit_linear(COLS, ROWS, vb)?, &expected)?;
    }
    Ok(())
}

#[test]
fn panel_files_are_read() -> Result {
    let layer = BitLinear::quantize(&random(&[ROWS, COLS])?, Some(&random(&[ROWS])?))?;
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("layer.panels");
    layer.save(&path)?;
    same(&BitLinear::load(&path)?, &layer)
}

#[test]
fn layers_of_a_model_are_read_by_name() -> Result {
    let with_bias = BitLinear::quantize(&random(&[ROWS, COLS])?, Some(&random(&[ROWS])?))?;
    let grouped = Granularity::PerGroup(GroupSize::G64);
    let grouped = BitLinear::quantize_by(&random(&[5, COLS])?, None, grouped)?;
    let files = [&with_bias, &grouped].map(BitLinear::linear);
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("model.panels");
    ModelFile::save(&path, [("blk.0.up", files[0]), ("blk.0.down", files[1])])?;
    let model = ModelFile::load(&path)?;
    let up = BitLinear::from_model(&model, "blk.0.up")?;
    same(&up, &with_bias)?;
    same(&BitLinear::from_model(&model, "blk.0.down")?, &grouped)?;
    // The panels are the file's.
    let again = BitLinear::from_model(&model, "blk.0.up")?;
    let [first, second] = [&up, &again].map(|layer| layer.linear().panels().as_bytes().as_ptr());
    assert_eq!(first, second);
    let error = BitLinear::from_model(&model, "blk.1.up").expect_err("no such");
    assert_eq!(error.to_string(), "the panel file has no matrix `blk.1.up`");
    Ok(())
}

#[test]
fn what_is_no_layer_is_an_error_that_says_why() -> Result {
    let cpu = &Device::Cpu;
    let bytes = |shape: (usize, usize)| Tensor::zeros(shape, DType::U8, cpu);
    let ones = |shape: &[usize]| Tensor::ones(shape, DType::F32, cpu);
    let weight = ones(&[8, 16])?;
    let eleven = Tensor::full(0b11u8, (8, 4), cpu)?;
    let infinite = Tensor::full(f32::INFINITY, (8, 16), cpu)?;
    let from_packed = |w: &Tensor, s: &Tensor| BitLinear::from_packed(w, s, 16, None);
    let quantize = BitLinear::quantize;
    let cases: [(std::result::Result<BitLinear, LoadError>, &str); 11] = [
        (
            quantize(&ones(&[16])?, None),
            "`weight` is [16], expected [M, K]",
        ),
        (
            quantize(&weight.to_dtype(DType::I64)?, None),
            "`weight` is I64, expected f32",
        ),
        (quantize(&infinite, None), "row 0, column 0 is inf"),
        (
            quantize(&weight, Some(&ones(&[7])?)),
            "`bias` has length 7, expected 8",
        ),
        (
            quantize(&weight, Some(&ones(&[8, 1])?)),
            "`bias` is [8, 1], expected [M]",
        ),
        (
            from_packed(&bytes((8, 5))?, &ones(&[1])?),
            "[8, 5], expected [M, 4] for K = 16",
        ),
        (
            from_packed(&weight, &ones(&[1])?),
            "`weight` is F32, expected u8",
        ),
        (
            from_packed(&bytes((8, 4))?, &ones(&[7])?),
            "`scales` is [7], expected [1], [8]",
        ),
        (
            from_packed(&bytes((8, 4))?, &ones(&[8, 2])?),
            "`scales` is [8, 2]",
        ),
        (from_packed(&eleven, &ones(&[1])?), "11"),
        (
            bit_linear_no_bias(17, 8, builder(&[("weight", &weight)])?),
            "[8, 17], got: [8, 16]",
        ),
    ];
    for (i, (result, message)) in cases.into_iter().enumerate() {
        let error = result.expect_err(message);
        assert!(error.to_string().contains(message), "case {i}: {error}");
    }
    let missing = bit_linear(16, 8, builder(&[("weight", &weight)])?);
    let error = candle_core::Error::from(missing.expect_err("there is no bias"));
    assert!(error.to_string().contains("bias"), "{error}");
    Ok(())
}

/// `[M, K]` trits as Hugging Face packs them, from its description: the rows in
/// four quarters, the first in the lowest bits.
fn hf_packed(trits: &[i8], rows: usize, cols: usize) -> Vec<u8> {
    let quarter = rows.div_ceil(4);
    let code = |row: usize, col: usize| match row < rows {
        true => (trits[row * cols + col] + 1) as u8,
        false => 0,
    };
    let byte = |i: usize| {
        (0..4)
            .map(|q| code(q * quarter + i / cols, i % cols) << (2 * q))
            .sum()
    };
    (0..quarter * cols).map(byte).collect()
}

#[test]
fn hugging_face_weights_are_unpacked() -> Result {
    let latent = random(&[ROWS, COLS])?.flatten_all()?.to_vec1::<f32>()?;
    let latent = MatRef::new(&latent, ROWS, COLS)?;
    let trits = TernaryMatrix::quantize(latent, Granularity::PerTensor)?.to_trits()?;
    let bias = random(&[ROWS])?;
    let mut bytes = hf_packed(&trits, ROWS, COLS);
    let tensor = |bytes: &[u8]| Tensor::from_slice(bytes, (18, COLS), &Device::Cpu);
    let stored = Tensor::new(&[4f32], &Device::Cpu)?.to_dtype(DType::BF16)?;
    for (class, scale) in [
        (HfLinearClass::BitLinear, 0.25),
        (HfLinearClass::AutoBitLinear, 4.0),
    ] {
        let scales = Scales::per_tensor(scale);
        let matrix = TernaryMatrix::from_trits(MatRef::new(&trits, ROWS, COLS)?, scales)?;
        let packed = tensor(&bytes)?;
        let vb = builder(&[
            ("weight", &packed),
            ("weight_scale", &stored),
            ("bias", &bias),
        ])?;
        let expected = BitLinear::new(&matrix, Some(bias.to_vec1()?))?;
        same(&bit_linear_hf(COLS, ROWS, class, vb.clone())?, &expected)?;
        // What the scale means is asked for, not guessed.
        let error = bit_linear_no_bias(COLS, ROWS, vb).expect_err("no class");
        assert!(matches!(error, LoadError::HfPacked), "{error}");
    }

    let from_hf = |bytes: &[u8], scale: f32, rows| {
        let scale = Tensor::new(&[scale], &Device::Cpu)?;
        BitLinear::from_hf(
            &tensor(bytes)?,
            &scale,
            rows,
            HfLinearClass::BitLinear,
            None,
        )
    };
    let text = |result: std::result::Result<BitLinear, LoadError>| {
        result.map(|_| ()).expect_err("an error").to_string()
    };
    assert!(text(from_hf(&bytes, 1.0, 73)).contains("[19, K] for M = 73"));
    assert!(text(from_hf(&bytes, 0.0, ROWS)).contains("scale 0 is inf"));
    // Rows 70 and 71 are padding, in the last quarter of packed rows 16 and 17.
    bytes[17 * COLS + 5] |= 0b01 << 6;
    assert!(text(from_hf(&bytes, 1.0, ROWS)).contains("code 01 in row 71, column 5"));
    bytes[2 * COLS + 3] |= 0b11 << 2;
    assert!(text(from_hf(&bytes, 1.0, ROWS)).contains("code 11 in row 20, column 3"));
    Ok(())
}

#[test]
fn gguf_tensors_are_read() -> Result {
    let file = include_bytes!("../../../formats/tests/vectors/python.gguf");
    let gguf = Gguf::parse(file)?;
    let ternary: Vec<_> = gguf
        .tensors()
        .filter(|t| t.tensor_type().ternary().is_some())
        // Those are random bytes of every type, with weights of +2.
        .filter(|t| !t.name().starts_with("kind."))
        .collect();
    assert!(!ternary.is_empty());
    for tensor in ternary {
        let layer = BitLinear::from_gguf(&gguf, tensor.name(), None)?;
        let layer = layer.with_activations(ActivationMode::F32);
        let (rows, cols) = (tensor.rows(), tensor.cols());
        // The columns of the layer's matrix are its outputs for unit vectors.
        let unit = Tensor::eye(cols, DType::F32, &Device::Cpu)?;
        let columns = layer.forward(&unit)?.t()?.flatten_all()?.to_vec1::<f32>()?;
        assert_eq!(
            columns,
            tensor.ternary()?.to_f32()?,
            "{} {rows} x {cols}",
            tensor.name()
        );
    }
    let error = BitLinear::from_gguf(&gguf, "nothing", None).expect_err("no tensor");
    assert!(error.to_string().contains("nothing"), "{error}");
    Ok(())
}
