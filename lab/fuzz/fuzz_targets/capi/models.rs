//! Panel files of models.

use super::{World, call};
use std::ffi::{CStr, c_char};
use std::rc::Rc;
use tritgemm_capi as c;
use tritgemm_fuzz::capi::{Call, Step, Weights, pick};

/// A matrix of a model.
pub type Named = (&'static CStr, Weights);

const NAMES: [&CStr; 4] = [c"", c"blk.0.up", c"blk.0.down", c"\u{e9}"];

fn name(which: u8) -> &'static CStr {
    NAMES[usize::from(which % 4)]
}

impl World {
    pub fn save_model(&mut self, step: &Step) {
        let (_, text) = self.file(if step.workspace % 4 == 0 {
            "none/m"
        } else {
            "m"
        });
        let (mut call, count) = (Call::new(step), step.choice % 4);
        let layers = (0..count).map(|i| pick(&self.linears, step.on.wrapping_add(i)));
        let layers: Vec<_> = layers.flatten().collect();
        let names = (0..count).map(|i| name(i * (step.gaps[0] % 4)));
        let names: Vec<_> = names.take(layers.len()).collect();
        let named: Vec<*const c_char> = names.iter().map(|name| call.text(name)).collect();
        let handles: Vec<_> = layers
            .iter()
            .map(|&l| call.handle(Some(l)).cast_const())
            .collect();
        let (text, names_at, at) = (call.text(&text), call.array(&named), call.array(&handles));
        let save = c::tritgemm_model_file_save;
        let status = call!(save, text, names_at, at, handles.len());
        let twice = |i: usize| names[..i].contains(&names[i]);
        call.wrong_if(step.workspace % 4 == 0 || (0..names.len()).any(twice));
        if call.done(status) {
            let weights = layers.iter().map(|layer| Weights {
                lent: None,
                ..layer.model.clone()
            });
            self.saved_model = Some(names.into_iter().zip(weights).collect());
        }
    }

    pub fn open_model(&mut self, step: &Step) {
        let (path, text) = self.file("m");
        let mut call = Call::new(step);
        let mut model = self.saved_model.clone();
        call.wrong_if(model.is_none());
        let verify = i32::from(step.choice / 3 % 2);
        let status = match step.choice % 3 {
            0 => {
                let (text, out) = (call.text(&text), call.out());
                call!(c::tritgemm_model_file_load, text, out)
            }
            1 => {
                let (text, verify, out) = (call.text(&text), call.choice(verify), call.out());
                call!(c::tritgemm_model_file_map, text, verify, out)
            }
            _ => {
                let bytes = std::fs::read(&path).unwrap_or_default();
                let bytes = call.buffer(&bytes, step.at[0]);
                let (ptr, verify, out) = (bytes.ptr, call.choice(verify), call.out());
                let open = c::tritgemm_model_file_from_memory;
                let status = call!(open, ptr, bytes.len, verify, out);
                let lent = Rc::new(bytes.memory);
                for (_, weights) in model.iter_mut().flatten() {
                    weights.lent = Some(lent.clone());
                }
                status
            }
        };
        call.keep(
            status,
            &mut self.models,
            c::tritgemm_model_file_destroy,
            model,
        );
        for kept in &self.models {
            let count = call!(c::tritgemm_model_file_count, kept.handle);
            assert_eq!(count, kept.model.len());
            for (i, (name, _)) in kept.model.iter().enumerate() {
                let got = call!(c::tritgemm_model_file_name, kept.handle, i);
                // SAFETY: it lives as long as the handle.
                assert_eq!(unsafe { CStr::from_ptr(got) }, *name);
            }
            assert!(call!(c::tritgemm_model_file_name, kept.handle, count).is_null());
        }
    }

    pub fn linear_of_model(&mut self, step: &Step) {
        let (mut call, kept) = (Call::new(step), pick(&self.models, step.on));
        let wanted = name(step.choice);
        let found = kept.and_then(|kept| kept.model.iter().find(|(name, _)| *name == wanted));
        let (handle, text, out) = (call.handle(kept), call.text(wanted), call.out());
        let status = call!(c::tritgemm_model_file_linear, handle, text, out);
        call.wrong_if(found.is_none());
        let model = found.map(|(_, weights)| weights.clone());
        call.keep(status, &mut self.linears, c::tritgemm_linear_destroy, model);
    }
}
