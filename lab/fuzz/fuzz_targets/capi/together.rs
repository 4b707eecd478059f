//! Products of several matrices in one call, into outputs of any type.

use super::{F32, Team, World, call, destroy, was_short};
use bytemuck::{Pod, Zeroable};
use half::{bf16, f16};
use tritgemm_capi::{self as c, Float, Status};
use tritgemm_fuzz::capi::{Activations, Buffer, Call, Step, Weights, pick};

/// What an output holds before.
const BEFORE: f32 = -12345.678;

/// An element of outputs.
pub trait Element: Pod {
    const TYPE: Float;
    fn of(value: f32) -> Self;
    fn value(self) -> f32;
}

impl Element for f32 {
    const TYPE: Float = Float::TritgemmF32;

    fn of(value: f32) -> Self {
        value
    }

    fn value(self) -> f32 {
        self
    }
}

macro_rules! sixteen_bits {
    ($($name:ident: $half:ty, $type:ident;)+) => {$(
        #[derive(Clone, Copy, Pod, Zeroable)]
        #[repr(transparent)]
        pub struct $name(u16);

        impl Element for $name {
            const TYPE: Float = Float::$type;

            fn of(value: f32) -> Self {
                Self(<$half>::from_f32(value).to_bits())
            }

            fn value(self) -> f32 {
                <$half>::from_bits(self.0).to_f32()
            }
        }
    )+};
}

sixteen_bits! {
    F16: f16, TritgemmF16;
    Bf16: bf16, TritgemmBf16;
}

/// Tokens that were sent to experts, and what experts those can be.
#[derive(Default)]
pub struct Sent {
    /// The expert and the token of each row.
    rows: Vec<[usize; 2]>,
    x: Activations,
    experts: usize,
}

impl Sent {
    fn fits(&self, experts: &[Weights]) -> bool {
        let (k, group) = experts.first().map_or((0, None), |w| (w.k, w.group()));
        [self.experts, self.x.k] == [experts.len(), k] && self.x.group == group
    }

    /// The rows of the experts' products.
    fn outputs(&self, experts: &[Weights]) -> Vec<f32> {
        let all: Vec<_> = experts.iter().map(|w| w.outputs(&self.x)).collect();
        let row = |&[e, token]: &[usize; 2]| &all[e][token * experts[e].m..][..experts[e].m];
        self.rows.iter().flat_map(row).copied().collect()
    }
}

/// An output of so many rows and columns, and whether it is added to.
fn output<T: Element>(
    call: &mut Call,
    step: &Step,
    shape: [usize; 2],
    add: bool,
) -> (Buffer<T>, c::Output) {
    let before = T::of(BEFORE);
    let y = call.rows((step, 1), &vec![before; shape[0] * shape[1]], shape, before);
    let given = c::Output {
        data: y.ptr.cast(),
        len: y.len,
        stride: y.stride,
        r#type: T::TYPE as i32,
        add: add.into(),
    };
    (y, given)
}

/// What an output holds after a product. NaNs may be any.
fn written<T: Element>(y: &Buffer<T>, products: &[f32], add: bool) {
    let before = if add { T::of(BEFORE).value() } else { 0.0 };
    let after = |&product: &f32| match add {
        true => T::of(before + product),
        false => T::of(product),
    };
    let numbers = !products.iter().any(|y| y.is_nan());
    let want: Vec<T> = products.iter().map(after).collect();
    y.holds(numbers.then_some(&want));
}

/// How a call ended: whether it worked.
fn ended(call: &Call, status: Status, team: Option<&Team>) -> Option<bool> {
    if was_short(team) && !call.wrong {
        assert_eq!(status, Status::TritgemmIncomplete);
        return None;
    }
    Some(call.done(status))
}

impl World {
    pub fn forward_many<T: Element>(&self, step: &Step) {
        let mut call = Call::new(step);
        // The same one, or different ones.
        let apart = step.gaps[1] % 2;
        let layers =
            (0..step.choice % 4).map(|i| pick(&self.linears, step.on.wrapping_add(i * apart)));
        let layers: Vec<_> = layers.flatten().collect();
        if layers.is_empty() {
            return;
        }
        let (x, team) = (
            pick(&self.prepared, step.tokens),
            pick(&self.teams, step.workspace),
        );
        let (ready, ws) = (call.handle(x), call.handle(team));
        let (n, add) = (x.map_or(0, |x| x.model.n), step.size[0] % 2 == 1);
        let handles: Vec<_> = layers
            .iter()
            .map(|&l| call.handle(Some(l)).cast_const())
            .collect();
        let shapes = layers.iter().map(|l| [n, l.model.m]);
        let (ys, mut outputs): (Vec<_>, Vec<_>) = shapes
            .map(|shape| output::<T>(&mut call, step, shape, add))
            .unzip();
        match (call.spoils(), &mut outputs[..]) {
            (Some(how), [first, second, ..]) => {
                match how % 3 {
                    0 => second.r#type = (second.r#type + 1) % 3,
                    1 => second.add = (!add).into(),
                    // Too short or the same.
                    _ => *second = *first,
                }
                let empty = ys[..2].iter().any(|y| y.before.is_empty());
                call.wrong_if(how % 3 < 2 || !empty);
                if how % 3 == 2 && empty {
                    return;
                }
            }
            (Some(_), _) => return,
            (None, _) => {}
        }
        let (count, forward) = (layers.len(), c::tritgemm_linear_forward_many);
        let (at, to) = (call.array(&handles), call.array(&outputs));
        let status = call!(forward, at, to, count, ready, ws);
        let fits = |x: &Activations, w: &Weights| x.k == w.k && x.group == w.group();
        let all = x.filter(|x| layers.iter().all(|l| fits(&x.model, &l.model)));
        call.wrong_if(all.is_none());
        match ended(&call, status, team) {
            None => ys.iter().for_each(|y| y.holds(None)),
            Some(false) => ys.iter().for_each(Buffer::untouched),
            Some(true) => {
                let x = &all.expect("activations").model;
                for (y, layer) in ys.iter().zip(&layers) {
                    written(y, &layer.model.outputs(x), add);
                }
            }
        }
    }

    pub fn experts(&mut self, step: &Step) {
        let (mut call, apart) = (Call::new(step), step.gaps[1] % 2);
        let layers =
            (0..step.choice % 4).map(|i| pick(&self.linears, step.on.wrapping_add(i * apart)));
        let layers: Vec<_> = layers.flatten().collect();
        let handles: Vec<_> = layers
            .iter()
            .map(|&l| call.handle(Some(l)).cast_const())
            .collect();
        let (at, out) = (call.array(&handles), call.out());
        let status = call!(c::tritgemm_experts_create, at, handles.len(), out);
        let model: Vec<Weights> = layers.iter().map(|l| l.model.clone()).collect();
        let kind = |w: &Weights| (w.m, w.k, w.group());
        call.wrong_if(model.iter().any(|w| kind(w) != kind(&model[0])));
        let destroy = c::tritgemm_experts_destroy;
        call.keep(status, &mut self.experts, destroy, Some(model));
    }

    pub fn route(&mut self, step: &Step) {
        let (mut call, kept) = (Call::new(step), pick(&self.experts, step.on));
        let experts = kept.map_or(&[][..], |kept| &kept.model);
        let ([n, _, k], int8) = (step.product_of(experts.first()), step.choice % 2 == 0);
        let group = call.x_group(step, int8);
        let (x, mut model, legal) = Activations::floats(step, [n, k], (int8, group.1));
        model.group = experts.first().and_then(Weights::group);
        let mut rows = Vec::new();
        for e in 0..experts.len() {
            let count = usize::from(step.gaps[1] >> e) % (n + 1);
            rows.extend((0..count).map(|i| [e, (i * usize::from(step.gaps[0]) + e) % n]));
        }
        let of = |e: usize| rows.iter().filter(|row| row[0] == e).count();
        let counts: Vec<usize> = (0..experts.len()).map(of).collect();
        let mut tokens: Vec<usize> = rows.iter().map(|row| row[1]).collect();
        if let (Some(last), true) = (tokens.last_mut(), step.wrong[0] % 8 == 1) {
            *last = n;
            call.wrong = true;
        }
        let handle = call.handle(kept);
        let x = call.rows((step, 0), &model.repeat(&x, k), [n, k], 0.0);
        let sent = call.buffer(&tokens, step.at[1]);
        let counts = call.buffer(&counts, step.at[0]);
        let team = pick(&self.teams, step.workspace);
        let index = usize::from(step.tokens) % self.routed.len().max(1);
        let (ws, to) = (call.handle(team), call.handle(self.routed.get(index)));
        let (ptr, len, stride, size) = (x.ptr.cast_const(), x.len, x.stride, group.0);
        let (s, sl, cs, cl) = (sent.ptr, sent.len, counts.ptr, counts.len);
        use c::{tritgemm_experts_prepare_f32 as f32_of, tritgemm_experts_prepare_int8 as int8_of};
        let status = match int8 {
            true => call!(
                int8_of,
                handle,
                n,
                F32,
                ptr.cast(),
                len,
                stride,
                size,
                s,
                sl,
                cs,
                cl,
                ws,
                to
            ),
            false => call!(f32_of, handle, n, ptr, len, stride, s, sl, cs, cl, ws, to),
        };
        call.wrong_if(was_short(team) || !legal);
        x.untouched();
        let experts = experts.len();
        match call.done(status) {
            true => {
                self.routed[index].model = Sent {
                    rows,
                    x: model,
                    experts,
                }
            }
            // As they were, or of no rows.
            false => destroy(&mut self.routed, step.tokens),
        }
    }

    pub fn forward_experts<T: Element>(&self, step: &Step) {
        let mut call = Call::new(step);
        let (kept, x) = (
            pick(&self.experts, step.on),
            pick(&self.routed, step.choice),
        );
        let (rows, add) = (x.map_or(0, |x| x.model.rows.len()), step.size[0] % 2 == 1);
        let m = kept.and_then(|kept| kept.model.first()).map_or(0, |w| w.m);
        let team = pick(&self.teams, step.workspace);
        let (handle, ready, ws) = (call.handle(kept), call.handle(x), call.handle(team));
        let (y, given) = output::<T>(&mut call, step, [rows, m], add);
        let (one, forward) = ([given], c::tritgemm_experts_forward);
        let status = call!(forward, handle, ready, call.array(&one), ws);
        let both = kept.zip(x).filter(|(kept, x)| x.model.fits(&kept.model));
        call.wrong_if(both.is_none());
        match ended(&call, status, team) {
            None => y.holds(None),
            Some(false) => y.untouched(),
            Some(true) => {
                let (kept, x) = both.expect("operands");
                written(&y, &x.model.outputs(&kept.model), add);
            }
        }
    }

    /// Into rows of an output: each its own, or added to by weight.
    pub fn combine_experts(&self, step: &Step) {
        let mut call = Call::new(step);
        let (kept, x) = (
            pick(&self.experts, step.on),
            pick(&self.routed, step.choice),
        );
        let (rows, add) = (x.map_or(0, |x| x.model.rows.len()), step.size[0] % 2 == 1);
        let m = kept.and_then(|kept| kept.model.first()).map_or(0, |w| w.m);
        let n = match add {
            true => usize::from(step.tokens % 9 + 1),
            false => rows + usize::from(step.tokens % 3),
        };
        let mut to: Vec<usize> = match add {
            true => (0..rows).map(|i| i * 5 % n).collect(),
            false => (0..rows).map(|i| n - 1 - i).collect(),
        };
        if let ([first, .., last], true) = (&mut to[..], step.wrong[0] % 8 == 1) {
            *last = if add { n } else { *first };
            call.wrong = true;
        }
        let factors = step.fill.floats(rows, tritgemm_fuzz::fill::Style::Unit);
        let team = pick(&self.teams, step.workspace);
        let (handle, ready, ws) = (call.handle(kept), call.handle(x), call.handle(team));
        let (y, _) = output::<f32>(&mut call, step, [n, m], add);
        let places = call.buffer(&to, step.at[0]);
        let (t, tl, to_y, len, stride) = (places.ptr, places.len, y.ptr, y.len, y.stride);
        let status = if add {
            let weights = call.buffer(&factors, step.at[1]);
            let (w, wl, run) = (weights.ptr, weights.len, c::tritgemm_experts_add_weighted);
            call!(run, handle, ready, t, tl, w, wl, n, to_y, len, stride, ws)
        } else {
            let run = c::tritgemm_experts_scatter;
            call!(run, handle, ready, t, tl, n, to_y, len, stride, ws)
        };
        let both = kept.zip(x).filter(|(kept, x)| x.model.fits(&kept.model));
        call.wrong_if(both.is_none());
        match ended(&call, status, team) {
            None => y.holds(None),
            Some(false) => y.untouched(),
            Some(true) => {
                let (kept, x) = both.expect("operands");
                let (products, mut want) = (x.model.outputs(&kept.model), vec![BEFORE; n * m]);
                for (i, product) in products.chunks(m.max(1)).enumerate() {
                    for (y, product) in want[to[i] * m..][..m].iter_mut().zip(product) {
                        *y = if add {
                            *y + factors[i] * product
                        } else {
                            *product
                        };
                    }
                }
                let numbers = !want.iter().any(|y| y.is_nan());
                y.holds(numbers.then_some(&want));
            }
        }
    }
}
