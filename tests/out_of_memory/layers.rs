//! Matrices, panels, files, quantisers, layers.

use crate::{SHAPE, every_allocation};
use tritgemm::codec::row_bytes;
use tritgemm::nn::{BitLinear, RmsNorm};
use tritgemm::{
    Granularity, GroupSize, Linear, MatMut, MatRef, ModelFile, ModelWriter, PanelFile, Panels,
    Rotation, Scales, TernaryMatrix, Verify, Workspace, quant,
};
use tritgemm_testing::allocator::{Plan, SMALLEST};
use tritgemm_testing::{Rng, view, view_mut};

const GRANULARITIES: [Granularity; 3] = [
    Granularity::PerTensor,
    Granularity::PerRow,
    Granularity::PerGroup(GroupSize::G64),
];

fn weights() -> Vec<f32> {
    let [m, k, _] = SHAPE;
    Rng::new(1).vec(m * k, Rng::unit)
}

fn matrix(granularity: Granularity) -> TernaryMatrix {
    let [m, k, _] = SHAPE;
    TernaryMatrix::quantize(view(&weights(), m, k), granularity).expect("finite")
}

fn layer(granularity: Granularity) -> Linear {
    let bias = vec![0.5; SHAPE[0]];
    let layer = Linear::new(&matrix(granularity)).expect("a layer");
    layer.with_bias(bias).expect("a bias")
}

/// What shows that a layer is the same.
fn parts(layer: &Linear) -> (Vec<u8>, Scales, Vec<f32>) {
    let bias = layer.bias().unwrap_or_default().to_vec();
    (
        layer.panels().to_packed(),
        layer.scales().expect("memory"),
        bias,
    )
}

#[test]
fn matrices_and_panels() {
    let [m, k, _] = SHAPE;
    let weights = weights();
    for granularity in GRANULARITIES {
        every_allocation(
            "TernaryMatrix::quantize",
            || (),
            |()| TernaryMatrix::quantize(view(&weights, m, k), granularity),
            |(), matrix| (matrix.packed().to_vec(), matrix.scales().clone()),
        );
        let matrix = matrix(granularity);
        let (trits, scales) = (matrix.to_trits().expect("memory"), matrix.scales());
        every_allocation(
            "TernaryMatrix::from_trits",
            || vec![scales.clone(); 2],
            |scales| TernaryMatrix::from_trits(view(&trits, m, k), scales.pop().expect("two")),
            |_, matrix| (matrix.packed().to_vec(), matrix.scales().clone()),
        );
        every_allocation(
            "TernaryMatrix::to_trits",
            || (),
            |()| matrix.to_trits(),
            |(), trits| trits,
        );
        every_allocation(
            "TernaryMatrix::to_f32",
            || (),
            |()| matrix.to_f32(),
            |(), weights| weights,
        );
        every_allocation(
            "Panels::pack",
            || (),
            |()| Panels::pack(&matrix),
            |(), panels| panels.as_bytes().to_vec(),
        );
        every_allocation(
            "Panels::from_packed",
            || (),
            |()| Panels::from_packed(view(matrix.packed(), m, row_bytes(k)), k),
            |(), panels| panels.as_bytes().to_vec(),
        );
    }
}

#[test]
fn linear_layers() {
    for granularity in GRANULARITIES {
        let matrix = matrix(granularity);
        every_allocation(
            "Linear::new",
            || (),
            |()| Linear::new(&matrix),
            |(), layer| parts(&layer),
        );
        let panels = Panels::pack(&matrix).expect("panels");
        every_allocation(
            "Linear::from_parts",
            || vec![(matrix.scales().clone(), vec![0.5; SHAPE[0]]); 2],
            // What is not per group is kept as it comes, so that the slice is what is copied.
            |given| {
                let (scales, bias) = given.pop().expect("two");
                let layer = Linear::from_parts(panels.clone(), scales, Some(bias))?;
                layer.slice_rows(0..SHAPE[0])
            },
            |_, layer| parts(&layer),
        );
        let layer = layer(granularity);
        every_allocation(
            "Linear::slice_rows",
            || (),
            |()| layer.slice_rows(0..SHAPE[0]),
            |(), layer| parts(&layer),
        );
    }
}

/// Names for whose index memory has to grow.
fn names() -> Vec<String> {
    let name = |i: usize| format!("{i}.{}", "a".repeat(SMALLEST));
    (0..80).map(name).collect()
}

#[test]
fn model_files() {
    let dir = std::env::temp_dir().join(format!("tritgemm-models-{}", std::process::id()));
    std::fs::create_dir(&dir).expect("a new directory");
    let (names, path) = (names(), dir.join("model"));
    let signs = vec![-1; SHAPE[1]];
    let rotation = Rotation::new(2, Some(&signs)).expect("a rotation");
    let small = TernaryMatrix::from_trits(view(&[1], 1, 1), Scales::per_tensor(1.0));
    let small = Linear::new(&small.expect("a trit")).expect("a layer");
    let large = layer(Granularity::PerRow);
    let large = large.with_rotation(rotation).expect("whole blocks");
    let layers = |i: usize| if i == 0 { &large } else { &small };
    every_allocation(
        "ModelFile::save",
        || (),
        |()| {
            let named = names.iter().enumerate();
            ModelFile::save(&path, named.map(|(i, n)| (n.as_str(), layers(i))))
        },
        |(), ()| std::fs::read(&path).expect("a file"),
    );
    assert_eq!(std::fs::read_dir(&dir).expect("a directory").count(), 1);
    every_allocation(
        "ModelFile::load",
        || (),
        |()| ModelFile::load(&path),
        |(), model| model.names().eq(&names),
    );
    let model = ModelFile::load(&path).expect("a model");
    every_allocation(
        "ModelFile::linear",
        || (),
        |()| model.linear(&names[0]),
        |(), layer| parts(&layer),
    );
    // A writer goes on after memory ran out.
    let mut out = std::io::Cursor::new(vec![0; 1 << 20]);
    let mut writer = ModelWriter::new(&mut out).expect("memory");
    let plan = Plan::here();
    for (i, name) in names.iter().enumerate() {
        let mut refused = 1;
        plan.run(1, || {
            while writer.add(name, layers(i)).is_err() {
                refused += 1;
            }
        });
        assert_eq!(refused, 2, "memory for a name of {SMALLEST} bytes");
    }
    writer.finish().expect("memory");
    let len = out.position() as usize;
    assert!(out.into_inner()[..len] == std::fs::read(&path).expect("a file"));
    std::fs::remove_dir_all(&dir).expect("removed");
}

#[test]
fn panel_files() {
    let dir = std::env::temp_dir().join(format!("tritgemm-memory-{}", std::process::id()));
    std::fs::create_dir(&dir).expect("a new directory");
    for granularity in GRANULARITIES {
        let (layer, path) = (layer(granularity), dir.join("layer"));
        let mut bytes = Vec::new();
        PanelFile::from(&layer)
            .write_to(&mut bytes)
            .expect("written");
        let saved = || layer.save(&path).expect("written");
        assert_eq!(Plan::here().run(0, saved), 0, "Linear::save allocates");
        assert!(std::fs::read(&path).expect("a file") == bytes);
        assert_eq!(std::fs::read_dir(&dir).expect("a directory").count(), 1);
        every_allocation(
            "Linear::load",
            || (),
            |()| Linear::load(&path),
            |(), layer| parts(&layer),
        );
        every_allocation(
            "PanelFile::from_bytes",
            || vec![bytes.clone(); 2],
            |bytes| PanelFile::from_bytes(bytes.pop().expect("two"), Verify::Full),
            |_, file| parts(&Linear::try_from(file).expect("a layer")),
        );
    }
    std::fs::remove_dir_all(&dir).expect("removed");
}

#[test]
fn quantisers() {
    let [m, k, _] = SHAPE;
    let weights = weights();
    for granularity in GRANULARITIES {
        let absmean = || quant::absmean(view(&weights, m, k), granularity);
        every_allocation("absmean", || (), |()| absmean(), |(), alphas| alphas);
        let alphas = absmean().expect("finite");
        every_allocation(
            "ternarize",
            || (),
            |()| quant::ternarize(view(&weights, m, k), granularity, &alphas),
            |(), trits| trits,
        );
    }
    every_allocation(
        "quantize_activations",
        || (),
        |()| quant::quantize_activations(view(&weights, m, k)),
        |(), quantised| quantised,
    );
    let norm = RmsNorm::new(vec![1.0; k]).expect("a norm");
    every_allocation(
        "RmsNorm::backward",
        || (vec![0.0; m * k], vec![0.0; k]),
        |(x, gain)| {
            gain.fill(0.0);
            let weights = view(&weights, m, k);
            norm.backward(weights, weights, view_mut(x, m, k), gain)
        },
        |(x, gain), ()| (x.clone(), gain.clone()),
    );
}

#[test]
fn bit_linear() {
    let [m, k, n] = SHAPE;
    every_allocation(
        "BitLinear::kaiming_uniform",
        || (),
        |()| BitLinear::kaiming_uniform(m, k, 1),
        |(), layer| layer.weight().to_vec(),
    );
    let (x, grad_y) = (
        Rng::new(2).vec(n * k, Rng::unit),
        Rng::new(3).vec(n * m, Rng::unit),
    );
    let x = MatRef::new(&x, n, k).expect("a view");
    let grad_y = MatRef::new(&grad_y, n, m).expect("a view");
    let start = || {
        let layer = BitLinear::new(weights(), m, k).and_then(|l| l.with_bias(vec![0.5; m]));
        (
            layer.expect("a layer"),
            vec![0.0; n * m.max(k)],
            Workspace::new(),
        )
    };
    let floats = |(_, y, _): &(BitLinear, Vec<f32>, Workspace), ()| y.clone();
    every_allocation(
        "BitLinear::forward_training",
        start,
        |(layer, y, ws)| layer.forward_training(x, MatMut::new(y, n, m).expect("a view"), ws),
        floats,
    );
    every_allocation(
        "BitLinear::forward_int8",
        start,
        |(layer, y, ws)| layer.forward_int8(x, MatMut::new(y, n, m).expect("a view"), ws),
        floats,
    );
    every_allocation(
        "BitLinear::forward_training, with another bias",
        || {
            let mut state = start();
            state.0.prepare_for_inference().expect("memory");
            state.0.bias_mut().expect("a bias").fill(0.25);
            state
        },
        |(layer, y, ws)| layer.forward_training(x, MatMut::new(y, n, m).expect("a view"), ws),
        floats,
    );
    every_allocation(
        "BitLinear::ternary",
        start,
        |(layer, _, _)| layer.ternary().map(|_| ()),
        |(layer, _, _), ()| parts(layer.packed().expect("packed")),
    );
    {
        every_allocation(
            "BitLinear::backward, of the input",
            start,
            |(layer, grad_x, ws)| {
                let grads = tritgemm::nn::BitLinearGrads {
                    x: Some(MatMut::new(grad_x, n, k).expect("a view")),
                    ..Default::default()
                };
                layer.backward(x, grad_y, grads, ws)
            },
            floats,
        );
    }
}
