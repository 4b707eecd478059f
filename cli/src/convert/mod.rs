//! `tritgemm convert`: ternary matrices from one format to another.

mod gguf;
mod panels;
mod report;
mod rotation;
mod safetensors;
mod target;

use crate::args::{ConvertArgs, Target};
use crate::atomic::checked;
use crate::names;
use crate::output::{self, Out, plain};
use crate::scales;
use crate::sharded::apart;
use anyhow::{Context, Result, anyhow, bail};
use clap::ValueEnum;
use indicatif::ProgressBar;
use report::Report;
use tritgemm::{Granularity, TernaryMatrix};
use tritgemm_formats::ggml::TernaryType;
use tritgemm_formats::model::ours::{PackedInfo, granularity_name};
use tritgemm_formats::model::rotation::RotationInfo;
use tritgemm_formats::model::{Matrix, Tensor};
use tritgemm_formats::{FormatError, Model, ScaleRounding, open_with};

/// What is to be written and how.
pub struct Job<'a> {
    model: &'a Model,
    /// Those of the model that are asked for.
    matrices: Vec<&'a Matrix<'a>>,
    others: Vec<&'a Tensor<'a>>,
    target: Target,
    rounding: ScaleRounding,
    args: &'a ConvertArgs,
    bar: ProgressBar,
    /// Names of tensors that OUT has no type for.
    skipped: Vec<String>,
}

/// Runs the command.
pub fn run(args: &ConvertArgs, out: &mut Out) -> Result<()> {
    crate::in_pool(args.threads, || convert(args, out))?
}

fn convert(args: &ConvertArgs, out: &mut Out) -> Result<()> {
    let (input, output) = (&args.input, &args.output);
    let in_input = || format!("`{}`", input.display());
    let target = target::target(args)?;
    let model = open_with(input, &args.read.options(false))?;
    apart(&model, input, std::slice::from_ref(output), "convert")?;
    if args.shard_size.is_none() {
        // Before the work, not after it.
        let in_output = || format!("`{}`", output.display());
        checked(output, args.force).with_context(in_output)?;
    }
    let mut job = Job::new(&model, target, args)?;
    job.leave_out().with_context(in_input)?;
    job.check_places().with_context(in_input)?;
    let reports = job
        .check()
        .map_err(|e| job.advise(e))
        .with_context(in_input)?;
    let (files, len) = match target {
        Target::Safetensors | Target::Hf | Target::HfBitlinear => {
            safetensors::write(&job, &reports)?
        }
        Target::Panels => panels::write(&job)?,
        _ => gguf::write(&job)?,
    };
    job.bar.finish_and_clear();
    let read = model.files().map(|(_, len)| len).sum();
    report::print(&job, &reports, [read, len], &files, out)
}

impl<'a> Job<'a> {
    fn new(model: &'a Model, target: Target, args: &'a ConvertArgs) -> Result<Self> {
        let mut matrices: Vec<&Matrix<'_>> = model.matrices().iter().collect();
        let mut others: Vec<&Tensor<'_>> = model.others().iter().collect();
        let names = matrices.iter().map(|m| m.name.as_str());
        let names = names.chain(others.iter().map(|o| o.name.as_str()));
        let chosen = names::matcher(&args.tensor, names, &args.input)?;
        if !args.tensor.is_empty() {
            matrices.retain(|m| chosen.is_match(&m.name));
            others.retain(|o| chosen.is_match(&o.name));
        }
        if matrices.is_empty() {
            // What looks like one says why it is none.
            let notes = model.notes().join(" ");
            bail!(
                "`{}`: no ternary matrices {}; `tritgemm quantize` makes them. {notes}",
                args.input.display(),
                if args.tensor.is_empty() {
                    "in it"
                } else {
                    "of that name"
                }
            );
        }
        // Each matrix is read twice: checked before anything is written.
        let total: u64 = matrices.iter().map(|m| 2 * m.bytes as u64).sum();
        let copied: u64 = others.iter().map(|o| o.bytes().len() as u64).sum();
        Ok(Self {
            model,
            matrices,
            others,
            target,
            rounding: match args.round_scales {
                true => ScaleRounding::Nearest,
                false => ScaleRounding::Exact,
            },
            args,
            bar: output::progress(
                total + copied,
                "{bar:30} {decimal_bytes} of {decimal_total_bytes}, {eta} left  {wide_msg}",
            ),
            skipped: Vec::new(),
        })
    }

    /// What can be done about an error, after it.
    fn advise(&self, error: anyhow::Error) -> anyhow::Error {
        let f32_scale = || match self.args.scale_type.float_type() {
            tritgemm_formats::FloatType::F32 => "safetensors and panels store any scale",
            _ => "--scale-type f32 stores any scale",
        };
        let advice = match error.downcast_ref::<FormatError>() {
            Some(FormatError::ScaleRounding { .. }) => {
                match (self.args.round_scales, self.target.class()) {
                    (false, Some(_)) => format!("--round-scales takes it, {}", f32_scale()),
                    (false, None) => "--round-scales takes it".to_owned(),
                    // Beyond the largest, or it would become 0.
                    (true, Some(_)) => f32_scale().to_owned(),
                    (true, None) => "safetensors and panels store any scale".to_owned(),
                }
            }
            Some(FormatError::ScaleLayout { .. }) => {
                "safetensors and panels store any scales".to_owned()
            }
            Some(FormatError::ScaleBlock {
                granularity: Granularity::PerGroup(group),
                ..
            }) => self.advise_types(
                group.len(),
                "holds them",
                "safetensors and panels store any scales",
            ),
            Some(FormatError::Block { .. }) => self.advise_types(
                usize::MAX,
                "has shorter blocks",
                "safetensors, panels and hf have any K",
            ),
            _ => return error,
        };
        anyhow!("{error:#}; {advice}")
    }

    /// The GGUF types of blocks of at most `most` weights that every K fits, and what they do;
    /// else what `others` do.
    fn advise_types(&self, most: usize, what: &str, others: &str) -> String {
        let fits = |target: &Target| {
            let block = target.ggml().map_or(usize::MAX, TernaryType::block);
            block <= most
                && self
                    .matrices
                    .iter()
                    .all(|m| m.shape[1].is_multiple_of(block))
        };
        let types: Vec<String> = (Target::value_variants().iter())
            .filter(|target| fits(target))
            .filter_map(|target| Some(format!("--to {}", target.to_possible_value()?.get_name())))
            .collect();
        match types.is_empty() {
            true => others.to_owned(),
            false => format!("{} {what}; {others}", types.join(" or ")),
        }
    }

    /// Converts every matrix and throws it away: nothing is written before all
    /// are known to be right.
    fn check(&self) -> Result<Vec<Report>> {
        let report = |m: &Matrix<'_>| {
            self.bar.set_message(plain(&m.name));
            let read = m.read()?;
            let from_scales = read.scales().granularity();
            let matrix = self.fit(m, read)?;
            let bytes = match (self.target.ggml(), self.target.class()) {
                (Some(ty), _) => ty.encode(&matrix, self.rounding, &m.name)?.len(),
                (_, Some(class)) => {
                    safetensors::hf_scale(self, m, &matrix, class)?;
                    matrix.rows().div_ceil(4) * matrix.cols()
                }
                _ => matrix.packed().len() + 4 * matrix.scales().values().len(),
            };
            self.bar.inc(m.bytes as u64);
            Ok(Report {
                name: m.name.clone(),
                from: m.format,
                shape: [matrix.rows(), matrix.cols()],
                from_scales,
                scales: matrix.scales().granularity(),
                bytes: [m.bytes, bytes],
            })
        };
        self.matrices.iter().map(|m| report(m)).collect()
    }

    /// The matrix as the target wants it.
    fn matrix(&self, m: &Matrix<'_>) -> Result<TernaryMatrix> {
        self.bar.set_message(plain(&m.name));
        let matrix = self.fit(m, m.read()?)?;
        self.bar.inc(m.bytes as u64);
        Ok(matrix)
    }

    fn fit(&self, m: &Matrix<'_>, matrix: TernaryMatrix) -> Result<TernaryMatrix> {
        let matrix = match &m.info {
            Some(info) => {
                let fits = [matrix.rows(), matrix.cols()] == info.shape;
                let restored = scales::regroup(&matrix, info.granularity);
                restored.filter(|_| fits).with_context(|| {
                    format!(
                        "tensor `{}` is not {:?} scaled by {} as the metadata says",
                        m.name,
                        info.shape,
                        granularity_name(info.granularity)
                    )
                })?
            }
            // What repeats a scale by block may have had one for all.
            None if m.format == "panels" => matrix,
            None => scales::coarsest(matrix),
        };
        if self.target.class().is_some() {
            return Ok(scales::regroup(&matrix, Granularity::PerTensor).unwrap_or(matrix));
        }
        Ok(matrix)
    }

    /// What our metadata will say of a matrix.
    fn info(&self, m: &Matrix<'_>, shape: [usize; 2], scales: Granularity) -> PackedInfo {
        let info = m.info.clone().unwrap_or_else(|| PackedInfo {
            dtype: m.format.to_owned(),
            shape,
            granularity: scales,
            sparsity: None,
            stack: None,
            rotation: None,
        });
        PackedInfo {
            stack: m.stack.clone(),
            rotation: m.rotation.as_ref().map(RotationInfo::new),
            ..info
        }
    }
}
