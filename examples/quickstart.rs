//! A ternary layer in thirty lines: `cargo run --release --example quickstart`.

use tritgemm::{Granularity, Linear, MatMut, MatRef, TernaryMatrix, Workspace};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Any f32 weights [outputs, inputs] will do; a ternary network's lose nothing by this.
    let (outputs, inputs, tokens) = (128, 512, 3);
    let latent: Vec<f32> = (0..outputs * inputs).map(|i| (i as f32).sin()).collect();
    let latent = MatRef::new(&latent, outputs, inputs)?;
    let layer = Linear::new(&TernaryMatrix::quantize(latent, Granularity::PerRow)?)?;

    // Three tokens at once. A workspace keeps memory and options from product to product.
    let x: Vec<f32> = (0..tokens * inputs).map(|i| (i as f32).cos()).collect();
    let x = MatRef::new(&x, tokens, inputs)?;
    let mut ws = Workspace::new();
    let (mut float, mut int8) = (vec![0.0; tokens * outputs], vec![0.0; tokens * outputs]);
    layer.forward_f32(x, MatMut::new(&mut float, tokens, outputs)?, &mut ws)?;
    layer.forward_int8(x, MatMut::new(&mut int8, tokens, outputs)?, &mut ws)?;
    println!("f32 {:.3}, int8 {:.3}", float[0], int8[0]);

    // A panel file is the same on every CPU and gives the same bits.
    let path = std::env::temp_dir().join("quickstart.panels");
    layer.save(&path)?;
    let mut same = vec![0.0; tokens * outputs];
    let loaded = Linear::load(&path)?;
    loaded.forward_f32(x, MatMut::new(&mut same, tokens, outputs)?, &mut ws)?;
    assert_eq!(same, float);
    Ok(std::fs::remove_file(path)?)
}
