//! `tritgemm convert`: ternary matrices from one format to another.

mod gguf;
mod panels;
mod report;
mod safetensors;

use crate::args::{ConvertArgs, Target};
use crate::atomic::AtomicFile;
use crate::format::{Grain, PackedInfo};
use crate::mapped::Mapped;
use crate::model::{self, Hints, Matrix, Model};
use crate::names;
use crate::output::{self, Out, count, plain};
use anyhow::{Context, Result, anyhow, bail};
use indicatif::ProgressBar;
use report::Report;
use tritgemm::{Granularity, TernaryMatrix};
use tritgemm_formats::hf::LinearClass;
use tritgemm_formats::{FormatError, ScaleRounding, ggml::TernaryType};

/// What is to be written and how.
pub struct Job<'a> {
    model: Model<'a>,
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
    let in_output = || format!("`{}`", output.display());
    let target = target(args)?;
    let mapped = Mapped::open(input).with_context(in_input)?;
    if same_file::is_same_file(input, output).unwrap_or(false) {
        bail!(
            "{}: is the input file; convert needs another name to write to",
            in_output()
        );
    }
    let hints = Hints {
        linear_class: args.linear_class.map(|c| c.class()),
        rows: args.rows,
        tolerant: false,
    };
    let model = Model::open(&mapped, input, &hints).with_context(in_input)?;
    let mut job = Job::new(model, target, args)?;
    job.leave_out().with_context(in_input)?;
    let reports = job.check().map_err(advise).with_context(in_input)?;
    let mut file = AtomicFile::create(output, args.force).with_context(in_output)?;
    let len = match target {
        Target::Safetensors | Target::Hf | Target::HfBitlinear => {
            safetensors::write(&job, &reports, &mut file)?
        }
        Target::Tq1_0 | Target::Tq2_0 => gguf::write(&job, &mut file)?,
        Target::Panels => panels::write(&job, &mut file)?,
    };
    job.bar.finish_and_clear();
    file.commit().with_context(in_output)?;
    report::print(&job, &reports, [mapped.len() as u64, len], out)
}

/// What can be done about an error, after it.
fn advise(error: anyhow::Error) -> anyhow::Error {
    let advice = match error.downcast_ref::<FormatError>() {
        Some(FormatError::ScaleRounding { format, .. }) if *format == "HF BitNet" => {
            "--round-scales takes it, --scale-type f32 stores any scale"
        }
        Some(FormatError::ScaleRounding { .. }) => "--round-scales takes it",
        Some(FormatError::ScaleLayout { .. } | FormatError::ScaleBlock { .. }) => {
            "`tritgemm quantize --granularity` makes such scales"
        }
        Some(FormatError::Block { .. }) => "safetensors, panels and hf have any K",
        _ => return error,
    };
    anyhow!("{error:#}; {advice}")
}

fn target(args: &ConvertArgs) -> Result<Target> {
    if let Some(target) = args.to {
        return Ok(target);
    }
    match args.output.extension().and_then(|e| e.to_str()) {
        Some("safetensors") => Ok(Target::Safetensors),
        Some("panels") => Ok(Target::Panels),
        Some("gguf") => Ok(Target::Tq2_0),
        _ => bail!(
            "`{}`: its ending names no format; --to does",
            args.output.display()
        ),
    }
}

impl Target {
    /// The ggml type, for GGUF.
    fn ggml(self) -> Option<TernaryType> {
        match self {
            Target::Tq1_0 => Some(TernaryType::Tq1_0),
            Target::Tq2_0 => Some(TernaryType::Tq2_0),
            _ => None,
        }
    }

    /// The linear class, for HF.
    fn class(self) -> Option<LinearClass> {
        match self {
            Target::Hf => Some(LinearClass::AutoBitLinear),
            Target::HfBitlinear => Some(LinearClass::BitLinear),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Target::Safetensors => "tritgemm",
            Target::Panels => "panels",
            Target::Tq1_0 => "TQ1_0",
            Target::Tq2_0 => "TQ2_0",
            Target::Hf => "HF autobitlinear",
            Target::HfBitlinear => "HF bitlinear",
        }
    }
}

impl<'a> Job<'a> {
    fn new(mut model: Model<'a>, target: Target, args: &'a ConvertArgs) -> Result<Self> {
        let names = model.matrices.iter().map(|m| m.name.as_str());
        let names = names.chain(model.others.iter().map(|o| o.name.as_str()));
        let chosen = names::matcher(&args.tensor, names, &args.input)?;
        if !args.tensor.is_empty() {
            model.matrices.retain(|m| chosen.is_match(&m.name));
            model.others.retain(|o| chosen.is_match(&o.name));
        }
        if model.matrices.is_empty() {
            bail!(
                "`{}`: no ternary matrices {}; `tritgemm quantize` makes them",
                args.input.display(),
                if args.tensor.is_empty() {
                    "in it"
                } else {
                    "of that name"
                }
            );
        }
        // Each matrix is read twice: checked before anything is written.
        let total: u64 = model.matrices.iter().map(|m| 2 * m.bytes as u64).sum();
        let others: u64 = model.others.iter().map(|o| o.bytes().len() as u64).sum();
        Ok(Self {
            model,
            target,
            rounding: match args.round_scales {
                true => ScaleRounding::Nearest,
                false => ScaleRounding::Exact,
            },
            args,
            bar: output::progress(
                total + others,
                "{bar:30} {decimal_bytes} of {decimal_total_bytes}, {eta} left  {wide_msg}",
            ),
            skipped: Vec::new(),
        })
    }

    /// Deals with tensors that the target cannot hold.
    fn leave_out(&mut self) -> Result<()> {
        let matrices = &self.model.matrices;
        let holds = |other: &model::Other<'_>| match self.target {
            Target::Safetensors | Target::Hf | Target::HfBitlinear => other.dtype.is_some(),
            Target::Tq1_0 | Target::Tq2_0 => gguf::tensor_type(other).is_some(),
            Target::Panels => matrices.iter().any(|m| panels::is_bias_of(other, m)),
        };
        let refused = |other: &&model::Other<'_>| !holds(other);
        let refused: Vec<&model::Other<'_>> = self.model.others.iter().filter(refused).collect();
        if let Some(first) = refused.first().filter(|_| !self.args.skip_others) {
            let more = match refused.len() - 1 {
                0 => String::new(),
                n => format!(" (and {})", count(n, "tensor more", "tensors more")),
            };
            bail!(
                "tensor `{}` of type {} {:?} has no place in a file of {}{more}; --skip-others \
                 leaves such tensors out",
                first.name,
                first.type_name,
                first.shape,
                self.target.name()
            );
        }
        let names: Vec<String> = refused.iter().map(|o| o.name.clone()).collect();
        self.model.others.retain(|o| !names.contains(&o.name));
        self.skipped = names;
        Ok(())
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
        self.model.matrices.iter().map(report).collect()
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
                let restored = model::regroup(&matrix, info.granularity.granularity());
                restored.filter(|_| fits).with_context(|| {
                    format!(
                        "tensor `{}` is not {:?} scaled by {} as the metadata says",
                        m.name,
                        info.shape,
                        info.granularity.name()
                    )
                })?
            }
            // What repeats a scale by block may have had one for all.
            None if m.format == "panels" => matrix,
            None => model::coarsest(matrix),
        };
        if self.target.class().is_some() {
            return Ok(model::regroup(&matrix, Granularity::PerTensor).unwrap_or(matrix));
        }
        Ok(matrix)
    }

    /// What our metadata will say of a matrix.
    fn info(&self, m: &Matrix<'_>, shape: [usize; 2], scales: Granularity) -> PackedInfo {
        m.info.clone().unwrap_or_else(|| PackedInfo {
            dtype: m.format.to_owned(),
            shape,
            granularity: Grain::from_granularity(scales),
            sparsity: None,
        })
    }
}
