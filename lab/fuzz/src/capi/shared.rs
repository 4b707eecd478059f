//! Activations and outputs in one buffer, and outputs where the weights are.

use super::World;
use super::handle::pick;
use super::layer::address;
use super::outcome::{failed, worked};
use super::workspace::Team;
use crate::common::{view, view_mut};
use crate::fill::Fill;
use crate::memory::Memory;
use arbitrary::Arbitrary;
use bytemuck::{Pod, cast_slice, pod_collect_to_vec};
use tritgemm_capi as c;
use tritgemm_capi::Status;

/// Most bytes of a buffer.
const MOST: usize = 1 << 14;

/// A product to be computed.
#[derive(Arbitrary, Debug)]
pub struct Shared {
    how: How,
    on: u8,
    workspace: u8,
    tokens: u8,
    bytes: Fill,
    at: u8,
    /// Bytes into the buffer.
    starts: [u16; 2],
    gaps: [u8; 2],
}

#[derive(Arbitrary, Debug)]
enum How {
    I8,
    Float,
    /// Rows of both are as far apart.
    SideBySide,
    SideBySideI8,
    Panels,
}

/// Rows in a buffer, in bytes.
#[derive(Clone, Copy)]
struct Place {
    start: usize,
    width: usize,
    stride: usize,
    rows: usize,
}

impl Place {
    fn end(self) -> usize {
        self.rows().last().map_or(self.start, |row| row.end)
    }

    /// Those with something in them.
    fn rows(self) -> impl Iterator<Item = std::ops::Range<usize>> {
        let rows = if self.width > 0 { self.rows } else { 0 };
        (0..rows).map(move |row| {
            let start = self.start + row * self.stride;
            start..start + self.width
        })
    }

    /// Whether rows of both share a byte.
    fn meets(self, other: Self) -> bool {
        let meet = |a: &std::ops::Range<usize>, b: &std::ops::Range<usize>| {
            a.start.max(b.start) < a.end.min(b.end)
        };
        self.rows().any(|a| other.rows().any(|b| meet(&a, &b)))
    }
}

impl Shared {
    /// Computes it.
    pub fn run(&self, world: &mut World) {
        match self.how {
            How::I8 | How::SideBySideI8 => {
                let Some(kept) = pick(&world.panels, self.on) else {
                    return;
                };
                let (panels, handle) = (&kept.model, kept.handle());
                let shape = [panels.rows(), panels.cols()];
                let models = &mut world.models;
                let beside = matches!(self.how, How::SideBySideI8);
                self.product(
                    &world.teams,
                    (shape, kept.origin.legal, beside),
                    {
                        |n, x: &[i8], y: &mut [i32]| {
                            let [m, k] = shape;
                            let ws = models.of(n * m * k);
                            let done = panels.gemm_i8(view(x, n, k), view_mut(y, n, m), ws);
                            done.expect("fits");
                        }
                    },
                    |n, (x, xl, xs), (y, yl, ys), ws| {
                        // SAFETY: rows inside of one buffer, handles that live.
                        unsafe { c::tritgemm_gemm_i8(handle, n, x, xl, xs, y, yl, ys, ws) }
                    },
                );
            }
            How::Float | How::SideBySide => {
                let Some(kept) = pick(&world.linears, self.on) else {
                    return;
                };
                let (layer, handle) = (&kept.model, kept.handle());
                let shape = [layer.out_features(), layer.in_features()];
                let models = &mut world.models;
                let beside = matches!(self.how, How::SideBySide);
                self.product(
                    &world.teams,
                    (shape, kept.origin.legal, beside),
                    {
                        |n, x: &[f32], y: &mut [f32]| {
                            let [m, k] = shape;
                            let ws = models.of(n * m * k);
                            let done = layer.forward_f32(view(x, n, k), view_mut(y, n, m), ws);
                            done.expect("fits");
                        }
                    },
                    |n, (x, xl, xs), (y, yl, ys), ws| {
                        // SAFETY: rows inside of one buffer, handles that live.
                        unsafe {
                            c::tritgemm_linear_forward_f32(handle, n, x, xl, xs, y, yl, ys, ws)
                        }
                    },
                );
            }
            How::Panels => self.panels(world),
        }
    }

    fn product<X: Pod, Y: Pod>(
        &self,
        teams: &[Team],
        ([m, k], legal, beside): ([usize; 2], bool, bool),
        model: impl FnOnce(usize, &[X], &mut [Y]),
        run: impl FnOnce(
            usize,
            (*const X, usize, usize),
            (*mut Y, usize, usize),
            *mut c::Workspace,
        ) -> Status,
    ) {
        let Some(team) = pick(teams, self.workspace) else {
            return;
        };
        let n = usize::from(self.tokens % 5);
        let [x_width, y_width] = [k * size_of::<X>(), m.saturating_mul(size_of::<Y>())];
        let gaps = self.gaps.map(|gap| usize::from(gap % 5));
        let [x_stride, y_stride] = match beside {
            true => [(x_width + y_width.min(MOST) + 4 * gaps[0]).next_multiple_of(4); 2],
            false => [
                x_width + gaps[0] * size_of::<X>(),
                y_width.saturating_add(gaps[1] * size_of::<Y>()),
            ],
        };
        if n * x_stride.max(y_stride.min(MOST)) > MOST || y_width > MOST {
            return;
        }
        let most = 2 * (x_width + y_width) + 8;
        let place = |start: u16, width, stride| Place {
            start: usize::from(start) % most,
            width,
            stride,
            rows: n,
        };
        let x_place = place(self.starts[0], x_width, x_stride);
        let y_place = place(self.starts[1], y_width, y_stride);
        let bytes = self.bytes.bytes(x_place.end().max(y_place.end()));
        let mut memory = Memory::new(&bytes, self.at);
        let base = memory.ptr_mut();
        // As long as the rows need.
        let x_arg = (
            base.wrapping_add(x_place.start).cast_const().cast::<X>(),
            (x_place.end() - x_place.start) / size_of::<X>(),
            x_stride / size_of::<X>(),
        );
        let y_arg = (
            base.wrapping_add(y_place.start).cast::<Y>(),
            (y_place.end() - y_place.start) / size_of::<Y>(),
            y_stride / size_of::<Y>(),
        );
        team.begin();
        let status = run(n, x_arg, y_arg, team.handle());
        assert_eq!(team.end(), None, "too small to be shared among workers");

        let apart = x_place.end() <= y_place.start || y_place.end() <= x_place.start;
        let empty = n == 0 || x_width == 0 || y_width == 0;
        if x_place.meets(y_place) {
            assert_eq!(status, Status::TritgemmOverlap);
        }
        if status == Status::TritgemmOverlap {
            let text = failed(status);
            assert_eq!(text, "`y` is written and overlaps `x`");
            // Rows that lie between others, at another distance, may be refused.
            assert!(x_place.meets(y_place) || !(apart || empty || x_stride == y_stride));
            assert!(memory.values() == bytes);
            return;
        }
        worked(status);
        let x: Vec<u8> = x_place.rows().flat_map(|row| bytes[row].to_vec()).collect();
        let x: Vec<X> = pod_collect_to_vec(&x);
        let mut y = vec![Y::zeroed(); n * m];
        model(n, &x, &mut y);
        let (mut want, mut got) = (bytes, memory.values());
        for (row, values) in y_place.rows().zip(y.chunks(m.max(1))) {
            want[row.clone()].copy_from_slice(cast_slice(values));
            if !legal {
                got[row.clone()].copy_from_slice(cast_slice(values));
            }
        }
        assert!(got == want, "{n} x {k} x {m}");
    }

    /// Where the panels are nothing can be written.
    fn panels(&self, world: &mut World) {
        let (kept, team) = (
            pick(&world.linears, self.on),
            pick(&world.teams, self.workspace),
        );
        let (Some(kept), Some(team)) = (kept, team) else {
            return;
        };
        let (m, k) = (kept.model.out_features(), kept.model.in_features());
        let (bytes, len) = address(kept);
        let Some(room) = len.checked_sub(m.saturating_mul(4)).filter(|_| m > 0) else {
            return;
        };
        let start = usize::from(self.starts[0]) % (room + 1);
        let y = bytes.wrapping_add(start).cast_mut().cast::<f32>();
        let x = vec![1.0f32; k];
        team.begin();
        // SAFETY: `x` is as long as said; `y` is too and must not be written.
        let status = unsafe {
            let (x, workspace) = (x.as_ptr(), team.handle());
            c::tritgemm_linear_forward(kept.handle(), 1, x, k, k, y, m, m, workspace)
        };
        assert_eq!(status, Status::TritgemmOverlap);
        assert_eq!(failed(status), "`y` is written and overlaps `panels`");
        team.end();
        // SAFETY: the layer keeps them.
        let now = unsafe { std::slice::from_raw_parts(bytes, len) };
        assert!(now == kept.model.panels().as_bytes());
    }
}
