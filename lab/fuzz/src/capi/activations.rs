//! Activations prepared once.

use super::World;
use super::call::{Call, Rows, Slip, Slot};
use super::handle::{Kept, keep, pick};
use super::shape::Tokens;
use super::workspace::Team;
use crate::fill::{Fill, Style};
use arbitrary::Arbitrary;
use bytemuck::Pod;
use half::{bf16, f16};
use tritgemm::{GroupSize, PrepareError, PreparedActivations, Workspace};
use tritgemm_capi as c;
use tritgemm_capi::Status;

/// Group sizes, none, and one that there is not.
const GROUPS: [usize; 5] = [0, 64, 128, 256, 7];

/// Activations to be prepared.
#[derive(Arbitrary, Debug)]
pub struct Prepare {
    path: Path,
    tokens: Tokens,
    /// As many as this layer has, or as this.
    features: (u8, Option<u8>),
    x: (Fill, Style),
    gap: u8,
    at: [u8; 2],
    /// That of this layer, or this.
    group: (u8, Option<u8>),
    scales: (Fill, Style),
    workspace: u8,
    slip: Option<Slip>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Path {
    Quantize,
    F16,
    Bf16,
    I8,
    Float,
}

/// The bits of f16s.
pub fn f16s(x: &[f32]) -> Vec<u16> {
    x.iter().map(|&v| f16::from_f32(v).to_bits()).collect()
}

/// The bits of bf16s.
pub fn bf16s(x: &[f32]) -> Vec<u16> {
    x.iter().map(|&v| bf16::from_f32(v).to_bits()).collect()
}

type Outcome = Result<PreparedActivations, PrepareError>;
type Run<X> = unsafe extern "C" fn(
    usize,
    usize,
    *const X,
    usize,
    usize,
    usize,
    *mut c::Workspace,
    *mut *mut c::Prepared,
) -> Status;

impl Prepare {
    /// Prepares them.
    pub fn run(&self, world: &mut World) {
        let layer = pick(&world.linears, self.features.0).map(|kept| kept.model.in_features());
        let features = self.features.1.map(usize::from).or(layer).unwrap_or(5);
        let [have, told] = self.tokens.of(16, features);
        let shape = [told, features];
        let floats = || self.x.0.floats(have * features, self.x.1);
        match self.path {
            Path::Quantize => {
                let run = c::tritgemm_prepare;
                self.with(world, shape, floats(), run, |x, group, ws| {
                    PreparedActivations::quantize(x.view(), group, ws)
                });
            }
            Path::F16 => {
                let run = c::tritgemm_prepare_f16;
                self.with(world, shape, f16s(&floats()), run, |x, group, ws| {
                    let values = x.map(|&bits| f16::from_bits(bits));
                    PreparedActivations::quantize(x.view_of(&values), group, ws)
                });
            }
            Path::Bf16 => {
                let run = c::tritgemm_prepare_bf16;
                self.with(world, shape, bf16s(&floats()), run, |x, group, ws| {
                    let values = x.map(|&bits| bf16::from_bits(bits));
                    PreparedActivations::quantize(x.view_of(&values), group, ws)
                });
            }
            Path::Float => {
                let run = c::tritgemm_prepare_f32;
                self.with(world, shape, floats(), run, |x, group, ws| {
                    PreparedActivations::float(x.view(), group, ws)
                });
            }
            Path::I8 => self.i8(world, shape, have),
        }
    }

    fn group(&self, world: &World, call: &mut Call) -> (usize, Option<GroupSize>) {
        let layer = pick(&world.linears, self.group.0).and_then(|kept| kept.model.group());
        let number = match self.group.1 {
            Some(which) => GROUPS[usize::from(which) % GROUPS.len()],
            None => layer.map_or(0, |group| group.len()),
        };
        let group = GroupSize::from_len(number);
        if number != 0 && group.is_none() {
            let text = format!("group of {number}, expected 0");
            call.wrong(Status::TritgemmInvalidArgument, text);
        }
        (number, group)
    }

    fn with<X: Pod>(
        &self,
        world: &mut World,
        [tokens, features]: [usize; 2],
        x: Vec<X>,
        run: Run<X>,
        model: impl FnOnce(&Rows<X>, Option<GroupSize>, &mut Workspace) -> Outcome,
    ) {
        let (mut call, mut slot) = (Call::new(self.slip), Slot::new());
        let between = X::zeroed();
        let shape = [tokens, features];
        let x = call.rows("x", &x, shape, (self.gap, between), self.at[0]);
        let (number, group) = self.group(world, &mut call);
        let team = pick(&world.teams, self.workspace);
        let workspace = call.handle("workspace", team.map(Team::handle));
        let out = call.slot(&mut slot);
        let (ptr, len, stride) = x.input();
        team.inspect(|team| team.begin());
        // SAFETY: a buffer with its length, a handle that lives, or none; an out pointer.
        let status = unsafe { run(tokens, features, ptr, len, stride, number, workspace, out) };
        let short = team.and_then(Team::end);
        let models = &mut world.models;
        let model = call.check(status, || match short {
            Some(short) => Err(PrepareError::Incomplete(short)),
            None => model(&x, group, models.of(len)),
        });
        x.untouched();
        keep_prepared(world, slot, model);
    }

    fn i8(&self, world: &mut World, [tokens, features]: [usize; 2], have: usize) {
        let (mut call, mut slot) = (Call::new(self.slip), Slot::new());
        let x = self.x.0.i8s(have * features);
        let x = call.rows("x", &x, [tokens, features], (self.gap, 0), self.at[0]);
        let scales = self.scales.0.floats(have, self.scales.1);
        let scales = call.buffer("token_scales", scales, self.at[1]);
        let (number, group) = self.group(world, &mut call);
        let team = pick(&world.teams, self.workspace);
        let workspace = call.handle("workspace", team.map(Team::handle));
        let out = call.slot(&mut slot);
        let (ptr, len, stride) = x.input();
        team.inspect(|team| team.begin());
        // SAFETY: buffers with their lengths, a handle that lives, or none; an out pointer.
        let status = unsafe {
            let (s, s_len) = (scales.ptr(), scales.len());
            c::tritgemm_prepare_i8(
                tokens, features, ptr, len, stride, s, s_len, number, workspace, out,
            )
        };
        let short = team.and_then(Team::end);
        let models = &mut world.models;
        let model = call.check(status, || match short {
            Some(short) => Err(PrepareError::Incomplete(short)),
            None => {
                let scales = scales.before().to_vec();
                PreparedActivations::int8(x.view(), scales, group, models.of(len))
            }
        });
        x.untouched();
        keep_prepared(world, slot, model);
    }
}

fn keep_prepared(world: &mut World, slot: Slot<c::Prepared>, model: Option<PreparedActivations>) {
    let Some(model) = model else {
        return slot.unmade();
    };
    let shape = [model.tokens(), model.cols()];
    let origin = Default::default();
    let made = Kept::new(slot.made(), c::tritgemm_prepared_destroy, model, &origin);
    // SAFETY: a handle that lives.
    unsafe {
        let tokens = c::tritgemm_prepared_tokens(made.handle());
        assert_eq!([tokens, c::tritgemm_prepared_cols(made.handle())], shape);
    }
    keep(&mut world.prepared, made);
}
