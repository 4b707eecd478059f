//! `tritgemm verify`: every kernel on a model's matrices against the scalar path.

use crate::args::{Act, VerifyArgs};
use crate::output::{self, Out, count, plain};
use crate::table::{Col, Table};
use anyhow::{Context, Result, bail};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tritgemm::{
    Backend, Family, Granularity, Linear, MatMut, MatRef, Options, Panels, Rotation, TernaryMatrix,
    Workspace,
};
use tritgemm_formats::model::Matrix;
use tritgemm_formats::model::ours::granularity_name;
use tritgemm_formats::open_with;

/// Both kernel families, whichever the library would choose.
const FAMILIES: [(Family, &str); 2] = [(Family::Few, "few"), (Family::Many, "many")];

/// Differences that are spelled out; more than these tell nothing new.
const SHOWN: usize = 20;

/// Runs the command.
pub fn run(args: &VerifyArgs, out: &mut Out) -> Result<()> {
    crate::in_pool(args.threads, || verify(args, out))?
}

fn verify(args: &VerifyArgs, out: &mut Out) -> Result<()> {
    let in_file = || format!("`{}`", args.file.display());
    let model = open_with(&args.file, &args.read.options(true))?;
    if model.matrices().is_empty() {
        // What looks like one says why it is none.
        bail!(
            "{}: no packed matrices in it; `tritgemm quantize` makes them. {}",
            in_file(),
            model.notes().join(" ")
        );
    }
    let backends: Vec<Backend> = Backend::available().collect();
    let columns = [
        Col::Left("matrix"),
        Col::Right("shape"),
        Col::Left("scales"),
        Col::Left("result"),
    ];
    let mut table = Table::new(&columns);
    table.style(3, |result| match result {
        "equal" => Some(output::GREEN),
        "DIFFERS" | "invalid" => Some(output::RED),
        _ => None,
    });

    let matrices = model.matrices().len();
    let bar = output::progress(
        matrices as u64,
        "{bar:30} {pos} of {len} matrices, {eta} left  {wide_msg}",
    );
    let mut failures = Vec::new();
    let (mut failed, mut products) = (0, 0);
    for (i, matrix) in model.matrices().iter().enumerate() {
        let name = &matrix.name;
        bar.set_message(plain(name));
        let seed = args.seed.wrapping_add(i as u64);
        let checked = check(matrix, &backends, &args.tokens, seed)?;
        let [rows, cols] = matrix.shape;
        let mut scales = matrix
            .info
            .as_ref()
            .map_or("-", |info| granularity_name(info.granularity));
        let result = match checked {
            Ok(checked) => {
                scales = granularity_name(checked.granularity);
                products += checked.products;
                failed += usize::from(!checked.differences.is_empty());
                let result = match (checked.differences.is_empty(), checked.products) {
                    (false, _) => "DIFFERS",
                    // Sound, but with nothing to multiply.
                    (true, 0) => "empty",
                    (true, _) => "equal",
                };
                let text = |d: String| format!("`{}`: {d}", plain(name));
                failures.extend(checked.differences.into_iter().map(text));
                result
            }
            Err(error) => {
                failed += 1;
                failures.push(format!(
                    "`{}`: {}",
                    plain(name),
                    output::one_line(&format!("{error:#}"))
                ));
                "invalid"
            }
        };
        table.add_row([
            plain(name),
            format!("{rows} x {cols}"),
            scales.to_owned(),
            result.to_owned(),
        ]);
        bar.inc(1);
    }
    bar.finish_and_clear();

    if matrices > 0 {
        out.table(&table)?;
        out.line("")?;
    }
    for note in model.notes() {
        out.text(plain(note))?;
    }
    for failure in failures.iter().take(SHOWN) {
        out.line(failure)?;
    }
    if failures.len() > SHOWN {
        out.line(format!("... and {} more", failures.len() - SHOWN))?;
    }
    if failed > 0 {
        bail!(
            "{}: {failed} of {} failed",
            in_file(),
            count(matrices, "matrix", "matrices")
        );
    }
    out.text(format!(
        "{}: codes, padding and shapes are right. {} equal the scalar path bit for bit: \
         {} tokens of int8, f32 and w1a8 activations, by the kernels for few and for many \
         tokens of {}.",
        count(matrices, "matrix", "matrices"),
        count(products, "product", "products"),
        list(args.tokens.iter().map(usize::to_string)),
        list(backends.iter().map(|b| b.name().to_owned())),
    ))
}

/// `1, 5 and 33`.
fn list(words: impl Iterator<Item = String>) -> String {
    let words: Vec<String> = words.collect();
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => words.concat(),
    }
}

/// What came of one matrix.
struct Checked {
    granularity: Granularity,
    differences: Vec<String>,
    products: usize,
}

/// Checks one matrix. The outer error ends the run; the inner one is the
/// matrix's own.
fn check(
    source: &Matrix<'_>,
    backends: &[Backend],
    tokens: &[usize],
    seed: u64,
) -> Result<Result<Checked>> {
    let matrix = match source.read() {
        Ok(matrix) => matrix,
        Err(error) => return Ok(Err(error.into())),
    };
    let mut checked = Checked {
        granularity: matrix.scales().granularity(),
        differences: Vec::new(),
        products: 0,
    };
    if matrix.rows() == 0 || matrix.cols() == 0 {
        // A shape without weights may claim any size on its other side.
        return Ok(Ok(checked));
    }
    let rotation = source.rotation.as_ref().filter(|rotated| rotated.input);
    let rotation = rotation.map(|rotated| &rotated.rotation);
    compare((&matrix, rotation), backends, tokens, seed, &mut checked)
        .with_context(|| format!("matrix `{}`", source.name))?;
    Ok(Ok(checked))
}

fn compare(
    (matrix, rotation): (&TernaryMatrix, Option<&Rotation>),
    backends: &[Backend],
    tokens: &[usize],
    seed: u64,
    checked: &mut Checked,
) -> Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    let layer = |backend| layer(matrix, rotation, backend);
    let scalar = layer(Backend::scalar())?;
    let layers: Vec<Linear> = backends.iter().map(|&b| layer(b)).collect::<Result<_>>()?;
    for (layer, backend) in layers.iter().zip(backends) {
        if layer.panels().as_bytes() != scalar.panels().as_bytes() {
            checked
                .differences
                .push(format!("{} packs other panels", backend.name()));
        }
    }
    for &n in tokens {
        crate::cpu::check_memory([matrix.rows(), matrix.cols()], n, Some(0))
            .with_context(|| format!("{n} tokens do not fit in memory"))?;
        let x = Inputs::random(n, matrix.cols(), &mut random)?;
        for act in Act::ALL {
            let want = product(&scalar, act, &x, (Backend::scalar(), Family::Few))?;
            for (layer, &backend) in layers.iter().zip(backends) {
                for (family, family_name) in FAMILIES {
                    let got = product(layer, act, &x, (backend, family))?;
                    checked.products += 1;
                    if let Some(at) = first_difference(&got, &want) {
                        let (token, row) = (at / matrix.rows(), at % matrix.rows());
                        checked.differences.push(format!(
                            "{} {} {family_name}, {n} tokens: token {token}, row {row} is {:#010x}, \
                             the scalar path has {:#010x}",
                            backend.name(), act.name(), got[at], want[at],
                        ));
                    }
                }
            }
        }
    }
    Ok(())
}

fn layer(matrix: &TernaryMatrix, rotation: Option<&Rotation>, backend: Backend) -> Result<Linear> {
    let panels = Panels::pack_on(
        matrix,
        &Workspace::with_options(Options::new().backend(backend)),
    )?;
    let layer = Linear::from_parts(panels, matrix.scales().clone(), None)?;
    Ok(match rotation {
        Some(rotation) => layer.with_rotation(rotation.clone())?,
        None => layer,
    })
}

fn first_difference(got: &[u32], want: &[u32]) -> Option<usize> {
    got.iter().zip(want).position(|(got, want)| got != want)
}

/// Random activations of every kind, `[n][k]`.
struct Inputs {
    n: usize,
    k: usize,
    i8: Vec<i8>,
    f32: Vec<f32>,
}

impl Inputs {
    fn random(n: usize, k: usize, random: &mut StdRng) -> Result<Self> {
        let len = n
            .checked_mul(k)
            .filter(|&len| len <= isize::MAX as usize / 4);
        let len = len.with_context(|| format!("{n} tokens of {k} activations are too many"))?;
        Ok(Self {
            n,
            k,
            i8: (0..len).map(|_| random.random()).collect(),
            // Magnitudes over some powers of two, so that roundings differ if
            // the order of additions does.
            f32: (0..len)
                .map(|_| random.random_range(-1.0f32..1.0) * 2f32.powi(random.random_range(-6..6)))
                .collect(),
        })
    }
}

/// The bits of one product.
fn product(
    layer: &Linear,
    act: Act,
    x: &Inputs,
    (backend, family): (Backend, Family),
) -> Result<Vec<u32>> {
    let (n, k, m) = (x.n, x.k, layer.out_features());
    let mut ws = Workspace::with_options(Options::new().backend(backend).family(family));
    let len = n.checked_mul(m).context("too many tokens")?;
    if act == Act::I8 {
        let mut y = vec![0i32; len];
        let (x, y_view) = (MatRef::new(&x.i8, n, k)?, MatMut::new(&mut y, n, m)?);
        layer.panels().gemm_i8(x, y_view, &mut ws)?;
        return Ok(y.into_iter().map(|y| y as u32).collect());
    }
    let mut y = vec![0f32; len];
    let (x, y_view) = (MatRef::new(&x.f32, n, k)?, MatMut::new(&mut y, n, m)?);
    match act {
        Act::W1a8 => layer.forward_int8(x, y_view, &mut ws)?,
        _ => layer.forward_f32(x, y_view, &mut ws)?,
    }
    Ok(y.into_iter().map(f32::to_bits).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_found_by_bits() {
        assert_eq!(first_difference(&[1, 2, 3], &[1, 2, 3]), None);
        assert_eq!(first_difference(&[1, 7, 3], &[1, 2, 4]), Some(1));
        let zeros = [0f32.to_bits(), (-0f32).to_bits()];
        assert_eq!(first_difference(&zeros[..1], &zeros[1..]), Some(0));
    }

    #[test]
    fn lists_read_as_sentences() {
        let list = |numbers: &[usize]| super::list(numbers.iter().map(usize::to_string));
        assert_eq!(list(&[1]), "1");
        assert_eq!(list(&[1, 5, 33]), "1, 5 and 33");
    }
}
