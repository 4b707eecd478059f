//! The C interface: random programs of calls, with arguments of any size at any
//! alignment and one of them wrong now and then. No call crashes, and a call fails
//! exactly if an argument is wrong. It then says why, makes no handle and leaves
//! outputs as they were. Products equal plain loops over what the handles stand
//! for. A program destroys all its handles, so the leak checker sees one that the
//! library loses.
#![no_main]

#[path = "capi/models.rs"]
mod models;
#[path = "capi/together.rs"]
mod together;

use arbitrary::{Arbitrary, Unstructured};
use bytemuck::Pod;
use libfuzzer_sys::fuzz_target;
use models::Named;
use std::cell::Cell;
use std::ffi::{CStr, CString, c_void};
use std::path::PathBuf;
use std::ptr::null;
use std::rc::Rc;
use together::Sent;
use tritgemm::Backend;
use tritgemm_capi::{self as c, Status};
use tritgemm_fuzz::capi::{Activations, Buffer, Call, Kept, Op, Step, Weights, pick};

/// What a program begins with.
const FIRST: [Op; 5] = [
    Op::Workspace,
    Op::Threads,
    Op::Matrix,
    Op::Panels,
    Op::Linear,
];
/// Most steps of a program.
const STEPS: usize = 24;
/// Names to pin, the last one of nothing; NULL pins none.
const NAMES: [Option<&CStr>; 4] = [None, Some(c"scalar"), Some(c"avx2"), Some(c"none")];
const F32: i32 = c::Float::TritgemmF32 as i32;

/// A workspace's threads: this one, which runs the items in some order.
struct Schedule {
    order: u8,
    workspace: *mut c::Workspace,
    short: Cell<bool>,
    postponed: Cell<Option<(unsafe extern "C" fn(*mut c_void, usize), *mut c_void)>>,
}

/// Runs the [`Schedule`] that is its context.
unsafe extern "C" fn parallel_for(ctx: *mut c_void, n: usize, work: c::Work, to: *mut c_void) {
    // SAFETY: the context was registered with this function and lives.
    let schedule = unsafe { &*ctx.cast::<Schedule>() };
    let work = work.expect("never null");
    schedule.postponed.set(Some((work, to)));
    // SAFETY: a workspace that lives, though it is in use.
    let busy = unsafe { c::tritgemm_workspace_pin(schedule.workspace, null()) };
    assert_eq!(busy, Status::TritgemmBusy);
    let order: Vec<usize> = match schedule.order % 5 {
        0 => (0..n).collect(),
        1 => (0..n).rev().collect(),
        2 => (0..n).flat_map(|item| [item; 2]).collect(),
        3 => (0..n).chain([n, usize::MAX]).collect(),
        _ => (1..n).collect(),
    };
    schedule.short.set(order.len() < n);
    for item in order {
        // SAFETY: inside of the loop.
        unsafe { work(to, item) };
    }
}

type Team = Kept<c::Workspace, Option<Box<Schedule>>>;

/// After a product: whether items were left out. Items that come now do nothing.
fn was_short(team: Option<&Team>) -> bool {
    let Some(schedule) = team.and_then(|team| team.model.as_ref()) else {
        return false;
    };
    if let Some((work, to)) = schedule.postponed.take() {
        // SAFETY: the workspace lives, which is all that it asks for.
        unsafe { work(to, 0) };
    }
    schedule.short.take()
}

/// Calls a function of the C interface.
macro_rules! call {
    ($function:expr, $($argument:expr),+) => {
        // SAFETY: pointers and handles are what `Call` made of ones that live: valid
        // for what their lengths say, or such that the function must not follow them.
        unsafe { $function($($argument),+) }
    };
}

pub(crate) use call;

/// Makes a handle of another one alone.
macro_rules! make {
    ($step:ident, $from:expr => $to:expr, $function:path, $destroy:path) => {{
        let (mut call, kept) = (Call::new($step), pick(&$from, $step.on));
        let (handle, out) = (call.handle(kept), call.out());
        let status = call!($function, handle, out);
        let model = kept.map(|kept| kept.model.clone());
        call.keep(status, &mut $to, $destroy, model);
    }};
}

/// Makes a shard; half of them begin and end where panels do.
macro_rules! slice {
    ($step:ident, $all:expr, $function:expr, $destroy:path) => {{
        let (mut call, kept) = (Call::new($step), pick(&$all, $step.on));
        let m = kept.map_or(0, |kept| kept.model.m);
        let unit = if $step.choice % 2 == 0 { 64 } else { 1 };
        let [begin, end] = $step.gaps.map(|gap| (usize::from(gap % 8) * unit).min(m));
        let (handle, out) = (call.handle(kept), call.out());
        let status = call!($function, handle, begin, end, out);
        let edge = |row: usize| row % 64 == 0 || row == m;
        call.wrong_if(begin > end || !edge(begin) || !edge(end));
        let kept = kept.filter(|_| begin <= end);
        let model = kept.map(|kept| kept.model.slice(begin..end));
        call.keep(status, &mut $all, $destroy, model);
    }};
}

/// A product of activations in a buffer.
type Direct<H, X, Y> = unsafe extern "C" fn(
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

/// The int8 pass on f32 activations.
unsafe extern "C" fn forward_int8(
    linear: *const c::Linear,
    n: usize,
    x: *const f32,
    x_len: usize,
    x_stride: usize,
    y: *mut f32,
    y_len: usize,
    y_stride: usize,
    ws: *mut c::Workspace,
) -> Status {
    let forward = c::tritgemm_linear_forward_int8;
    call!(
        forward,
        linear,
        n,
        F32,
        x.cast(),
        x_len,
        x_stride,
        y,
        y_len,
        y_stride,
        ws
    )
}

/// The outcome of a product, and what it wrote.
fn finish<Y: Pod>(
    call: &Call,
    status: Status,
    team: Option<&Team>,
    y: &Buffer<Y>,
    want: impl FnOnce() -> Vec<Y>,
) {
    if was_short(team) && !call.wrong {
        assert_eq!(status, Status::TritgemmIncomplete);
        y.holds(None);
    } else if call.done(status) {
        y.holds(Some(&want()));
    } else {
        y.untouched();
    }
}

/// A product of activations in a buffer.
fn direct<H, X: Pod, Y: Pod>(
    (step, teams): (&Step, &[Team]),
    (all, canary): (&[Kept<H, Weights>], Y),
    function: Direct<H, X, Y>,
    x: impl FnOnce([usize; 2]) -> (Vec<X>, Activations, bool),
    want: impl FnOnce(&Weights, &Activations) -> Vec<Y>,
) {
    let (mut call, kept) = (Call::new(step), pick(all, step.on));
    let [n, m, k] = step.product(kept);
    let (x, model, legal) = x([n, k]);
    call.wrong_if(!legal);
    let handle = call.handle(kept);
    let x = call.rows((step, 0), &model.repeat(&x, k), [n, k], X::zeroed());
    let y = call.rows((step, 1), &vec![canary; n * m], [n, m], canary);
    let team = pick(teams, step.workspace);
    let (ws, to, xs, ys) = (call.handle(team), y.ptr, x.stride, y.stride);
    let status = call!(function, handle, n, x.ptr, x.len, xs, to, y.len, ys, ws);
    x.untouched();
    finish(&call, status, team, &y, || {
        want(&kept.expect("weights").model, &model)
    });
}

/// A product of prepared activations.
fn of_prepared<H, Y: Pod>(
    (step, teams): (&Step, &[Team]),
    (all, canary): (&[Kept<H, Weights>], Y),
    prepared: &[Kept<c::Prepared, Activations>],
    run: impl FnOnce(*const H, *const c::Prepared, *mut Y, [usize; 2], *mut c::Workspace) -> Status,
    fit: impl FnOnce(&Weights, &Activations) -> bool,
    want: impl FnOnce(&Weights, &Activations) -> Vec<Y>,
) {
    let mut call = Call::new(step);
    let (kept, x) = (pick(all, step.on), pick(prepared, step.choice));
    let n = x.map_or(0, |x| x.model.n);
    let m = kept.map_or(0, |kept| kept.model.m);
    let (handle, activations) = (call.handle(kept), call.handle(x));
    let y = call.rows((step, 1), &vec![canary; n * m], [n, m], canary);
    let team = pick(teams, step.workspace);
    let (workspace, to) = (call.handle(team), y.ptr);
    let status = run(handle, activations, to, [y.len, y.stride], workspace);
    let both = kept.zip(x).map(|(kept, x)| (&kept.model, &x.model));
    call.wrong_if(both.is_none_or(|(w, x)| x.k != w.k || !fit(w, x)));
    finish(&call, status, team, &y, || {
        let (weights, x) = both.expect("operands");
        want(weights, x)
    });
}

/// Everything that lives.
#[derive(Default)]
struct World {
    matrices: Vec<Kept<c::Matrix, Weights>>,
    panels: Vec<Kept<c::Panels, Weights>>,
    linears: Vec<Kept<c::Linear, Weights>>,
    files: Vec<Kept<c::PanelFile, Weights>>,
    prepared: Vec<Kept<c::Prepared, Activations>>,
    experts: Vec<Kept<c::Experts, Vec<Weights>>>,
    routed: Vec<Kept<c::Routed, Sent>>,
    models: Vec<Kept<c::ModelFile, Vec<Named>>>,
    teams: Vec<Team>,
    dir: Option<PathBuf>,
    /// What the files hold.
    saved: [Option<Weights>; 2],
    saved_model: Option<Vec<Named>>,
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(dir) = &self.dir {
            // What is mapped stays.
            std::fs::remove_dir_all(dir).expect("removed");
        }
    }
}

impl World {
    fn step(&mut self, step: &Step) {
        use Weights as W;
        use c::tritgemm_linear_destroy as destroy_linear;
        use c::tritgemm_panels_destroy as destroy_panels;
        let with = (step, &self.teams[..]);
        let panels = (&self.panels[..], 0x5a5a_5a5a);
        let linears = (&self.linears[..], -12345.678);
        match step.op {
            Op::Workspace => {
                let mut call = Call::new(step);
                let status = call!(c::tritgemm_workspace_create, call.out());
                let destroy = c::tritgemm_workspace_destroy;
                call.keep(status, &mut self.teams, destroy, Some(None));
            }
            Op::Pin => self.pin(step),
            Op::Threads => self.threads(step),
            Op::Matrix => self.matrix(step),
            Op::Panels => {
                make!(step, self.matrices => self.panels, c::tritgemm_panels_pack, destroy_panels);
            }
            Op::PanelsOfLinear => {
                make!(step, self.linears => self.panels, c::tritgemm_linear_panels, destroy_panels);
            }
            Op::PanelsOfFile => {
                make!(step, self.files => self.panels, c::tritgemm_panel_file_panels, destroy_panels);
            }
            Op::LinearOfFile => {
                make!(step, self.files => self.linears, c::tritgemm_panel_file_linear, destroy_linear);
            }
            Op::SlicePanels => {
                let slice = c::tritgemm_panels_slice_rows;
                slice!(step, self.panels, slice, destroy_panels);
            }
            Op::SliceLinear => {
                let slice = c::tritgemm_linear_slice_rows;
                slice!(step, self.linears, slice, destroy_linear);
            }
            Op::LendPanels => self.lend_panels(step),
            Op::Linear => self.linear(step),
            Op::LinearOfPanels => self.linear_of_panels(step),
            Op::Prepare => self.prepare(step, false),
            Op::PrepareAgain => self.prepare(step, true),
            Op::Gemm => {
                let x = |[n, k]: [usize; 2]| {
                    let mut model = Activations::new(n, k);
                    model.values = step.fill.i8s(model.distinct * k);
                    (model.values.clone(), model, true)
                };
                direct(with, panels, c::tritgemm_panels_gemm_i8, x, W::sums);
            }
            Op::Forward => {
                let int8 = step.choice % 2 == 0;
                let forward = match int8 {
                    true => forward_int8,
                    false => c::tritgemm_linear_forward_f32,
                };
                let x = |nk| Activations::floats(step, nk, (int8, None));
                direct(with, linears, forward, x, W::outputs);
            }
            Op::GemmPrepared => {
                let fit = |_: &W, x: &Activations| {
                    x.floats.is_none() && x.group.is_none() && x.x_group.is_none()
                };
                let gemm = c::tritgemm_panels_gemm_i8_prepared;
                let run =
                    |p, x, y, [len, stride]: [usize; 2], ws| call!(gemm, p, x, y, len, stride, ws);
                of_prepared(with, panels, &self.prepared, run, fit, W::sums);
            }
            Op::ForwardPrepared => {
                let fit = |w: &W, x: &Activations| w.group() == x.group;
                let forward = c::tritgemm_linear_forward_prepared;
                let run = |l, x, y, [len, stride]: [usize; 2], ws| {
                    call!(forward, l, x, y, len, stride, ws)
                };
                of_prepared(with, linears, &self.prepared, run, fit, W::outputs);
            }
            Op::ForwardMany => match step.gaps[0] % 3 {
                0 => self.forward_many::<f32>(step),
                1 => self.forward_many::<together::F16>(step),
                _ => self.forward_many::<together::Bf16>(step),
            },
            Op::Experts => self.experts(step),
            Op::Routed => {
                let mut call = Call::new(step);
                let status = call!(c::tritgemm_routed_create, call.out());
                let (destroy, none) = (c::tritgemm_routed_destroy, Sent::default());
                call.keep(status, &mut self.routed, destroy, Some(none));
            }
            Op::Route => self.route(step),
            Op::ForwardExperts => match step.gaps[0] % 5 {
                0 => self.forward_experts::<f32>(step),
                1 => self.forward_experts::<together::F16>(step),
                2 => self.forward_experts::<together::Bf16>(step),
                _ => self.combine_experts(step),
            },
            Op::Overlap => self.overlap(step),
            Op::Save => self.save(step),
            Op::Open => self.open(step),
            Op::SaveModel => self.save_model(step),
            Op::OpenModel => self.open_model(step),
            Op::LinearOfModel => self.linear_of_model(step),
            Op::Destroy => match step.choice % 9 {
                0 => destroy(&mut self.matrices, step.on),
                1 => destroy(&mut self.panels, step.on),
                2 => destroy(&mut self.linears, step.on),
                3 => destroy(&mut self.files, step.on),
                4 => destroy(&mut self.prepared, step.on),
                5 => destroy(&mut self.experts, step.on),
                6 => destroy(&mut self.routed, step.on),
                7 => destroy(&mut self.models, step.on),
                _ => destroy(&mut self.teams, step.on),
            },
        }
    }

    fn pin(&self, step: &Step) {
        let (mut call, team) = (Call::new(step), pick(&self.teams, step.on));
        let (handle, name) = (call.handle(team), NAMES[usize::from(step.choice % 4)]);
        let name_is = |name: &CStr| Backend::by_name(name.to_str().expect("ASCII")).is_ok();
        call.wrong_if(!name.is_none_or(name_is));
        let name = name.map_or(null(), CStr::as_ptr);
        call.done(call!(c::tritgemm_workspace_pin, handle, name));
        let set = c::tritgemm_workspace_set_weights_in_cache;
        let worked = call!(set, handle, step.at[0] > 99) == Status::TritgemmOk;
        assert_eq!(worked, handle.is_aligned() && !handle.is_null());
    }

    fn threads(&mut self, step: &Step) {
        let mut call = Call::new(step);
        let index = usize::from(step.on) % self.teams.len().max(1);
        let team = self.teams.get_mut(index);
        let handle = call.handle(team.as_deref());
        let schedule = Box::new(Schedule {
            order: step.choice,
            workspace: handle,
            short: Cell::default(),
            postponed: Cell::default(),
        });
        let ctx = std::ptr::from_ref(&*schedule).cast_mut().cast();
        let function = (step.at[1] % 8 != 0).then_some(parallel_for as _);
        let (set, workers) = (c::tritgemm_workspace_set_parallel_for, step.at[0].into());
        if call.done(call!(set, handle, workers, function, ctx)) {
            team.expect("a workspace").model = Some(schedule);
        }
    }

    fn matrix(&mut self, step: &Step) {
        let mut call = Call::new(step);
        let [rows, cols] = step.shape();
        let mut trits = step.fill.trits(rows * cols);
        let (scales, legal) = step.scales(rows, cols);
        call.wrong_if(!legal);
        if let (Some(last), [1, value, _]) = (trits.last_mut(), step.wrong.map(|b| b % 8)) {
            *last = value as i8;
            call.wrong_if(value > 1);
        }
        let t = call.buffer(&trits, step.at[0]);
        let kind = call.choice(step.granularity());
        let s = call.buffer(&scales, step.at[1]);
        let (t_ptr, s_ptr, out) = (t.ptr, s.ptr, call.out());
        let make = c::tritgemm_matrix_from_trits;
        let status = call!(make, t_ptr, t.len, rows, cols, kind, s_ptr, s.len, out);
        let model = Weights {
            m: rows,
            k: cols,
            trits: trits.into(),
            granularity: step.granularity(),
            scales: scales.into(),
            bias: None,
            lent: None,
        };
        let destroy = c::tritgemm_matrix_destroy;
        call.keep(status, &mut self.matrices, destroy, Some(model));
    }

    fn linear(&mut self, step: &Step) {
        let (mut call, kept) = (Call::new(step), pick(&self.matrices, step.on));
        let handle = call.handle(kept);
        let bias = step.bias(kept.map_or(0, |kept| kept.model.m));
        let b = call.buffer(bias.as_deref().unwrap_or_default(), step.at[0]);
        let b_ptr = if bias.is_some() { b.ptr } else { null() };
        let out = call.out();
        let status = call!(c::tritgemm_linear_create, handle, b_ptr, b.len, out);
        let mut model = kept.map(|kept| kept.model.clone());
        if let Some(model) = &mut model {
            model.bias = bias.map(Rc::from);
        }
        call.keep(status, &mut self.linears, c::tritgemm_linear_destroy, model);
    }

    fn linear_of_panels(&mut self, step: &Step) {
        let (mut call, kept) = (Call::new(step), pick(&self.panels, step.on));
        let handle = call.handle(kept);
        let (m, k) = kept.map_or((0, 0), |kept| (kept.model.m, kept.model.k));
        let kind = call.choice(step.granularity());
        let ((scales, legal), bias) = (step.scales(m, k), step.bias(m));
        call.wrong_if(!legal);
        let s = call.buffer(&scales, step.at[1]);
        let b = call.buffer(bias.as_deref().unwrap_or_default(), step.at[0]);
        let b_ptr = if bias.is_some() { b.ptr } else { null() };
        let (s_ptr, out) = (s.ptr, call.out());
        let make = c::tritgemm_linear_from_panels;
        let status = call!(make, handle, kind, s_ptr, s.len, b_ptr, b.len, out);
        let model = kept.map(|kept| Weights {
            granularity: step.granularity(),
            scales: scales.into(),
            bias: bias.map(Rc::from),
            ..kept.model.clone()
        });
        call.keep(status, &mut self.linears, c::tritgemm_linear_destroy, model);
    }

    fn lend_panels(&mut self, step: &Step) {
        let (mut call, kept) = (Call::new(step), pick(&self.panels, step.on));
        let Some(kept) = kept else { return };
        let (mut ptr, mut len) = (null(), 0);
        let got = call!(c::tritgemm_panels_bytes, kept.handle, &mut ptr, &mut len);
        assert_eq!(got, Status::TritgemmOk);
        // SAFETY: the bytes live as long as the panels.
        let bytes = unsafe { std::slice::from_raw_parts(ptr, len) };
        let bytes = call.buffer(bytes, step.at[0]);
        let (m, k) = (kept.model.m, kept.model.k);
        let (ptr, out) = (bytes.ptr, call.out());
        let status = call!(c::tritgemm_panels_from_memory, ptr, bytes.len, m, k, out);
        let mut model = kept.model.clone();
        model.lent = Some(Rc::new(bytes.memory));
        let destroy = c::tritgemm_panels_destroy;
        call.keep(status, &mut self.panels, destroy, Some(model));
    }

    /// New activations, or `again` in the memory of some.
    fn prepare(&mut self, step: &Step, again: bool) {
        let (mut call, kept) = (Call::new(step), pick(&self.linears, step.on));
        let ([n, _, k], int8) = (step.product(kept), step.choice % 2 == 0);
        let group = call.x_group(step, int8);
        let (x, mut model, legal) = Activations::floats(step, [n, k], (int8, group.1));
        call.wrong_if(!legal);
        model.group = kept.and_then(|kept| kept.model.group());
        let handle = call.handle(kept);
        let x = call.rows((step, 0), &model.repeat(&x, k), [n, k], 0.0);
        let team = pick(&self.teams, step.workspace);
        let (ptr, xs, ws, len) = (x.ptr, x.stride, call.handle(team), x.len);
        let (any, size) = (ptr.cast_const().cast(), group.0);
        if again {
            use c::{
                tritgemm_linear_prepare_f32_into as f32_into,
                tritgemm_linear_prepare_int8_into as int8_into,
            };
            let index = usize::from(step.gaps[0]) % self.prepared.len().max(1);
            let to = call.handle(self.prepared.get(index));
            let status = match int8 {
                true => call!(int8_into, handle, n, F32, any, len, xs, size, ws, to),
                false => call!(f32_into, handle, n, ptr, len, xs, ws, to),
            };
            call.wrong_if(was_short(team));
            x.untouched();
            match call.done(status) {
                true => self.prepared[index].model = model,
                // As they were, or of no tokens.
                false => destroy(&mut self.prepared, step.gaps[0]),
            }
            return;
        }
        use c::{tritgemm_linear_prepare_f32 as f32_of, tritgemm_linear_prepare_int8 as int8_of};
        let out = call.out();
        let status = match int8 {
            true => call!(int8_of, handle, n, F32, any, len, xs, size, ws, out),
            false => call!(f32_of, handle, n, ptr, len, xs, ws, out),
        };
        call.wrong_if(was_short(team));
        x.untouched();
        let destroy = c::tritgemm_prepared_destroy;
        call.keep(status, &mut self.prepared, destroy, Some(model));
    }

    /// An output that begins where the activations do.
    fn overlap(&self, step: &Step) {
        let team = pick(&self.teams, step.workspace);
        let Some((panels, team)) = pick(&self.panels, step.on).zip(team) else {
            return;
        };
        let (m, k, n) = (panels.model.m, panels.model.k, usize::from(step.tokens % 5));
        let len = n * k.max(4 * m);
        let both = Buffer::new(vec![0u8; len], [0, 0], 0, step.at[0]);
        let (y, p, ws) = (both.ptr, panels.handle, team.handle);
        let (x, y, yl) = (y.cast_const().cast(), y.cast(), n * m);
        let status = call!(c::tritgemm_panels_gemm_i8, p, n, x, n * k, k, y, yl, m, ws);
        was_short(Some(team));
        if n * m * k > 0 {
            assert_eq!(status, Status::TritgemmOverlap);
            both.untouched();
        }
    }

    /// The path of a file: one of two, or one that cannot be.
    fn path(&mut self, step: &Step) -> (PathBuf, CString, usize) {
        let which = usize::from(step.workspace % 3);
        let (path, text) = self.file(["a", "b", "none/a"][which]);
        (path, text, which)
    }

    fn file(&mut self, name: &str) -> (PathBuf, CString) {
        let dir = self.dir.get_or_insert_with(|| {
            let base = std::env::temp_dir();
            let dir = base.join(format!("tritgemm-fuzz-capi-{}", std::process::id()));
            std::fs::create_dir_all(&dir).expect("a directory");
            dir
        });
        let path = dir.join(name);
        let text = CString::new(path.to_str().expect("UTF-8")).expect("no zero");
        (path, text)
    }

    fn save(&mut self, step: &Step) {
        let (_, text, which) = self.path(step);
        let (mut call, linear) = (Call::new(step), pick(&self.linears, step.on));
        let (handle, text) = (call.handle(linear), call.text(&text));
        let status = call!(c::tritgemm_linear_save, handle, text);
        call.wrong_if(which == 2);
        if call.done(status) {
            let mut weights = linear.expect("a layer").model.clone();
            weights.lent = None;
            self.saved[which] = Some(weights);
        }
    }

    fn open(&mut self, step: &Step) {
        let (path, text, which) = self.path(step);
        let mut call = Call::new(step);
        let mut model = self.saved.get(which).cloned().flatten();
        call.wrong_if(model.is_none());
        let verify = i32::from(step.choice / 3 % 2);
        let status = match step.choice % 3 {
            0 => {
                let (text, out) = (call.text(&text), call.out());
                call!(c::tritgemm_panel_file_load, text, out)
            }
            1 => {
                let (text, verify, out) = (call.text(&text), call.choice(verify), call.out());
                call!(c::tritgemm_panel_file_map, text, verify, out)
            }
            _ => {
                let bytes = std::fs::read(&path).unwrap_or_default();
                let bytes = call.buffer(&bytes, step.at[0]);
                let (ptr, verify, out) = (bytes.ptr, call.choice(verify), call.out());
                let open = c::tritgemm_panel_file_from_memory;
                let status = call!(open, ptr, bytes.len, verify, out);
                if let Some(model) = &mut model {
                    model.lent = Some(Rc::new(bytes.memory));
                }
                status
            }
        };
        let destroy = c::tritgemm_panel_file_destroy;
        call.keep(status, &mut self.files, destroy, model);
    }
}

fn destroy<T>(all: &mut Vec<T>, which: u8) {
    if !all.is_empty() {
        all.swap_remove(usize::from(which) % all.len());
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = Unstructured::new(bytes);
    let mut world = World::default();
    for i in 0..STEPS {
        let Ok(step) = Step::arbitrary(&mut bytes) else {
            return;
        };
        if bytes.is_empty() {
            return;
        }
        if i == 0 {
            for op in FIRST {
                let (fill, wrong) = (step.fill.clone(), [7; 3]);
                world.step(&Step {
                    op,
                    wrong,
                    fill,
                    ..step
                });
            }
        }
        world.step(&step);
    }
});
