//! What only reports: the registry of kernels and why each row runs here or not, CPU
//! features, which tokens take which family. Results never depend on it.

use crate::activations::PreparedActivations;
use crate::isa::{Backend, Isa};
use crate::kernels::auto::scale;
use crate::kernels::contract::{FewKernel, KernelSet, ManyChoice};
use crate::kernels::registry::REGISTRY;

/// One kernel of a row of the registry.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct KernelInfo {
    /// What it is for: `codec`, `few_i8`, `many_i8`, `few_f32` or `many_f32`.
    pub operation: &'static str,
    /// Its name, `{level}-{operation}`. A level may use another's kernel.
    pub name: &'static str,
    /// Where the row has several for the operation, when this one is taken: for weights
    /// from memory, or how many tokens its tile has and from how many left over it is
    /// worth one.
    pub when: Option<String>,
    /// Every function pointer of it that dispatch can call, but for [`Self::scales`].
    pub entries: Vec<*const ()>,
    /// Those that scale the sums of a group of K, by the only multiplications of a kernel.
    pub scales: Vec<*const ()>,
}

/// A row of the registry, whether or not this CPU can run it.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct Row {
    /// As [`Backend::name`].
    pub name: &'static str,
    /// As [`Backend::isa`].
    pub isa: Isa,
    /// The CPU features it needs, by the compiler's names.
    pub features: Vec<&'static str>,
    /// Those that this CPU lacks.
    pub missing: Vec<&'static str>,
    /// The CPUs that its tuning looks for, if it has one.
    pub looks_for: Option<&'static str>,
    /// Whether this CPU is one of those.
    pub suits: bool,
    /// Its kernels.
    pub kernels: Vec<KernelInfo>,
}

/// Every row of the registry, in its order.
pub fn registry() -> Vec<Row> {
    REGISTRY.iter().map(|set| row(set)).collect()
}

fn row(set: &KernelSet) -> Row {
    let codec = set.codec;
    let mut kernels = vec![KernelInfo {
        operation: "codec",
        name: codec.name,
        when: None,
        entries: vec![
            codec.encode as *const (),
            codec.decode_i8 as *const (),
            codec.decode_f32 as *const (),
            codec.pack_panel as *const (),
        ],
        scales: Vec::new(),
    }];
    few("few_i8", set.few_i8, &mut kernels);
    many("many_i8", set.many_i8, &mut kernels);
    few("few_f32", set.few_f32, &mut kernels);
    many("many_f32", set.many_f32, &mut kernels);
    let missing = set.features.iter().filter(|f| !(f.detect)());
    Row {
        name: set.name,
        isa: set.level().parse().expect("levels are named so"),
        features: set.features.iter().map(|f| f.name).collect(),
        missing: missing.map(|f| f.name).collect(),
        looks_for: set.tuning.map(|tuning| tuning.looks_for),
        suits: set.suits(),
        kernels,
    }
}

fn few<X, Acc>(operation: &'static str, kernel: &FewKernel<X, Acc>, kernels: &mut Vec<KernelInfo>) {
    let info = |kernel: &FewKernel<X, Acc>, when: Option<&str>| {
        let tiles = kernel.tiles.iter().map(|tile| tile.run as *const ());
        let scaled = kernel.scaled.iter().flat_map(|scaled| scaled.run);
        KernelInfo {
            operation,
            name: kernel.name,
            when: when.map(str::to_owned),
            entries: std::iter::once(kernel.build as *const ())
                .chain(tiles)
                .collect(),
            scales: scaled.map(|&run| run as *const ()).collect(),
        }
    };
    kernels.push(info(kernel, None));
    kernels.extend(
        kernel
            .from_memory
            .map(|kernel| info(kernel, Some("one token, weights from memory"))),
    );
}

fn many<X, Acc>(
    operation: &'static str,
    choices: &[ManyChoice<X, Acc>],
    kernels: &mut Vec<KernelInfo>,
) {
    kernels.extend(choices.iter().map(
        |ManyChoice {
             kernel,
             least_tokens,
         }| KernelInfo {
            operation,
            name: kernel.name,
            when: Some(format!(
                "tiles of {} tokens, from {least_tokens} left over",
                kernel.tokens
            )),
            entries: vec![
                kernel.build as *const (),
                kernel.run as *const (),
                kernel.finish as *const (),
                kernel.finish_groups as *const (),
            ],
            scales: vec![kernel.run_scaled as *const ()],
        },
    ));
}

/// The kernels of a backend.
pub fn kernels(backend: Backend) -> Vec<KernelInfo> {
    row(backend.runnable().set()).kernels
}

/// The functions that do multiply, each output once: names and entries.
pub fn epilogues() -> [(&'static str, *const ()); 4] {
    [
        ("scale_i32", scale::scale_i32 as *const ()),
        ("scale_f32", scale::scale_f32 as *const ()),
        ("fold_group_i32", scale::fold_group_i32 as *const ()),
        ("fold_group_f32", scale::fold_group_f32 as *const ()),
    ]
}

/// The CPU features that the registry knows of, and whether this CPU has each.
pub fn cpu_features() -> Vec<(&'static str, bool)> {
    let mut features: Vec<(&'static str, bool)> = Vec::new();
    for feature in REGISTRY.iter().flat_map(|set| set.features) {
        if !features.iter().any(|(name, _)| *name == feature.name) {
            features.push((feature.name, (feature.detect)()));
        }
    }
    features
}

/// How the tokens of prepared activations are shared among kernels: those in whole tiles
/// for many tokens, those left over that take one more tile, and those that are few.
pub fn token_split(x: &PreparedActivations) -> [usize; 3] {
    let split = x.split();
    [split.whole, split.left.1, x.tokens() - split.many()]
}
