//! Products, each in buffers of its own.

use super::World;
use super::activations::{bf16s, f16s};
use super::call::{Call, Rows, Slip};
use super::handle::{Kept, pick};
use super::shape::Tokens;
use super::workspace::Team;
use crate::fill::{Fill, Style};
use arbitrary::Arbitrary;
use bytemuck::Pod;
use half::{bf16, f16};
use tritgemm::{GemmError, Linear, MatMut, PreparedActivations, Workspace};
use tritgemm_capi as c;
use tritgemm_capi::Status;

/// Most outputs of a product of prepared activations, and multiply-adds.
const MOST: [usize; 2] = [1 << 16, 4 << 20];

/// A product to be computed.
#[derive(Arbitrary, Debug)]
pub struct Product {
    path: Path,
    /// Panels or a layer, activations, a workspace.
    on: u8,
    prepared: u8,
    workspace: u8,
    tokens: Tokens,
    x: (Fill, Style),
    gaps: [u8; 2],
    at: [u8; 2],
    slip: Option<Slip>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Path {
    I8,
    Quantize,
    F16,
    Bf16,
    Float,
    Prepared,
    PreparedI8,
}

type Run<H, X, Y> = unsafe extern "C" fn(
    *const H,
    usize,
    *const X,
    usize,
    usize,
    *mut Y,
    usize,
    usize,
    *mut c::Workspace,
) -> Status;

type RunPrepared<H, Y> = unsafe extern "C" fn(
    *const H,
    *const c::Prepared,
    *mut Y,
    usize,
    usize,
    *mut c::Workspace,
) -> Status;

/// What stands before rows of outputs.
trait Canary: Pod {
    const CANARY: Self;
}

impl Canary for f32 {
    const CANARY: Self = 7.5;
}

impl Canary for i32 {
    const CANARY: Self = 77;
}

impl Product {
    /// Computes it.
    pub fn run(&self, world: &mut World) {
        match self.path {
            Path::I8 => self.i8(world),
            Path::Quantize => {
                let run = c::tritgemm_linear_forward;
                self.forward(world, <[f32]>::to_vec, run, |layer, x, y, ws| {
                    layer.forward(x.view(), y, ws)
                });
            }
            Path::F16 => {
                let run = c::tritgemm_linear_forward_f16;
                self.forward(world, f16s, run, |layer, x, y, ws| {
                    let values = x.map(|&bits| f16::from_bits(bits));
                    layer.forward(x.view_of(&values), y, ws)
                });
            }
            Path::Bf16 => {
                let run = c::tritgemm_linear_forward_bf16;
                self.forward(world, bf16s, run, |layer, x, y, ws| {
                    let values = x.map(|&bits| bf16::from_bits(bits));
                    layer.forward(x.view_of(&values), y, ws)
                });
            }
            Path::Float => {
                let run = c::tritgemm_linear_forward_f32;
                self.forward(world, <[f32]>::to_vec, run, |layer, x, y, ws| {
                    layer.forward_f32(x.view(), y, ws)
                });
            }
            Path::Prepared => {
                let World {
                    linears, prepared, ..
                } = world;
                let kept = pick(linears, self.on);
                let m = kept.map_or(0, |kept| kept.model.out_features());
                let run = c::tritgemm_linear_forward_prepared;
                let x = pick(prepared, self.prepared);
                let (teams, models) = (&world.teams, &mut world.models);
                self.prepared(("linear", kept, m), x, teams, run, |layer, x, y, macs| {
                    layer.forward_prepared(x, y, models.of(macs))
                });
            }
            Path::PreparedI8 => {
                let World {
                    panels, prepared, ..
                } = world;
                let kept = pick(panels, self.on);
                let m = kept.map_or(0, |kept| kept.model.rows());
                let run = c::tritgemm_gemm_i8_prepared;
                let x = pick(prepared, self.prepared);
                let (teams, models) = (&world.teams, &mut world.models);
                self.prepared(("panels", kept, m), x, teams, run, |panels, x, y, macs| {
                    panels.gemm_i8_prepared(x, y, models.of(macs))
                });
            }
        }
    }

    fn i8(&self, world: &mut World) {
        let kept = pick(&world.panels, self.on);
        let (m, k) = kept.map_or((3, 5), |kept| (kept.model.rows(), kept.model.cols()));
        let tokens = self.tokens.of(m, k);
        let x = self.x.0.i8s(tokens[0] * k);
        let (teams, models) = (&world.teams, &mut world.models);
        self.rows(
            ("panels", kept),
            ([m, k], tokens, &x),
            teams,
            c::tritgemm_gemm_i8,
            |panels, x, y, macs| panels.gemm_i8(x.view(), y, models.of(macs)),
        );
    }

    fn forward<X: Pod>(
        &self,
        world: &mut World,
        values: impl FnOnce(&[f32]) -> Vec<X>,
        run: Run<c::Linear, X, f32>,
        model: impl FnOnce(&Linear, &Rows<X>, MatMut<'_, f32>, &mut Workspace) -> Result<(), GemmError>,
    ) {
        let kept = pick(&world.linears, self.on);
        let shape = |model: &Linear| (model.out_features(), model.in_features());
        let (m, k) = kept.map_or((3, 5), |kept| shape(&kept.model));
        let tokens = self.tokens.of(m, k);
        let x = values(&self.x.0.floats(tokens[0] * k, self.x.1));
        let (teams, models) = (&world.teams, &mut world.models);
        self.rows(
            ("linear", kept),
            ([m, k], tokens, &x),
            teams,
            run,
            |layer, x, y, macs| model(layer, x, y, models.of(macs)),
        );
    }

    fn rows<H, M, X: Pod, Y: Canary>(
        &self,
        (name, kept): (&str, Option<&Kept<H, M>>),
        ([m, k], [have, told], x): ([usize; 2], [usize; 2], &[X]),
        teams: &[Team],
        run: Run<H, X, Y>,
        model: impl FnOnce(&M, &Rows<X>, MatMut<'_, Y>, usize) -> Result<(), GemmError>,
    ) {
        let mut call = Call::new(self.slip);
        let handle = call.handle(name, kept.map(Kept::handle));
        let between = X::zeroed();
        let x = call.rows("x", x, [told, k], (self.gaps[0], between), self.at[0]);
        let mut y = self.outputs(&mut call, have, [told, m]);
        let team = pick(teams, self.workspace);
        let workspace = call.handle("workspace", team.map(Team::handle));
        team.inspect(|team| team.begin());
        let ((x_ptr, x_len, x_stride), (y_ptr, y_len, y_stride)) = (x.input(), y.output());
        // SAFETY: buffers with their lengths, handles that live, or none.
        let status = unsafe {
            run(
                handle, told, x_ptr, x_len, x_stride, y_ptr, y_len, y_stride, workspace,
            )
        };
        let legal = kept.is_some_and(|kept| kept.origin.legal);
        finish(call, status, team, legal, &y, |y| {
            model(&kept.expect("a handle").model, &x, y, have * k * m)
        });
        x.untouched();
    }

    fn outputs<Y: Canary>(&self, call: &mut Call, have: usize, shape: [usize; 2]) -> Rows<Y> {
        let y = vec![Y::CANARY; have * shape[1]];
        call.rows("y", &y, shape, (self.gaps[1], Y::CANARY), self.at[1])
    }

    fn prepared<H, M, Y: Canary>(
        &self,
        (name, kept, m): (&str, Option<&Kept<H, M>>, usize),
        x: Option<&Kept<c::Prepared, PreparedActivations>>,
        teams: &[Team],
        run: RunPrepared<H, Y>,
        model: impl FnOnce(&M, &PreparedActivations, MatMut<'_, Y>, usize) -> Result<(), GemmError>,
    ) {
        let (tokens, k) = x.map_or((0, 0), |x| (x.model.tokens(), x.model.cols()));
        let outputs = tokens.saturating_mul(m);
        let macs = outputs.saturating_mul(k);
        if k > 0 && macs > MOST[1] {
            return;
        }
        // Too many for a buffer: it must be found too short.
        let have = if outputs <= MOST[0] && m > 0 {
            tokens
        } else {
            0
        };
        let mut call = Call::new(self.slip);
        let handle = call.handle(name, kept.map(Kept::handle));
        let activations = call.handle("x", x.map(Kept::handle));
        let mut y = self.outputs(&mut call, have, [tokens, m]);
        let team = pick(teams, self.workspace);
        let workspace = call.handle("workspace", team.map(Team::handle));
        team.inspect(|team| team.begin());
        let (y_ptr, y_len, y_stride) = y.output();
        // SAFETY: a buffer with its length, handles that live, or none.
        let status = unsafe { run(handle, activations, y_ptr, y_len, y_stride, workspace) };
        let legal = kept.is_some_and(|kept| kept.origin.legal);
        finish(call, status, team, legal, &y, |y| {
            let x = &x.expect("activations").model;
            model(&kept.expect("a handle").model, x, y, macs)
        });
    }
}

/// The outcome of a product, and what it wrote.
fn finish<Y: Pod>(
    call: Call,
    status: Status,
    team: Option<&Team>,
    legal: bool,
    y: &Rows<Y>,
    model: impl FnOnce(MatMut<'_, Y>) -> Result<(), GemmError>,
) {
    let right = call.is_right();
    let mut canvas = y.canvas();
    let short = team.and_then(Team::end);
    let done = call.check(status, || match short {
        Some(short) => Err(GemmError::Incomplete(short)),
        None => model(y.view_mut(&mut canvas)),
    });
    match done {
        None if !right => y.untouched(),
        Some(()) if legal => y.holds(&canvas),
        // Codes without a meaning give sums without one; errors leave anything.
        _ => y.holds_between(),
    }
}
