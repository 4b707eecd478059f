//! What is left to ggml, and counted.

use crate::fake::{Backend, MARK, Model, buffer, loaded, read, reference, state, stats};
use crate::stats::Left;
use crate::sys::{I32, SUCCESS, Tensor, WEIGHTS};
use core::sync::atomic::Ordering::SeqCst;
use tritgemm_formats::ggml::TernaryType;

const ALL: [Left; 4] = [Left::Buffer, Left::Layout, Left::NotTernary, Left::Memory];

/// Computes a product that is left to ggml for that reason, beside one that is not.
fn left(why: Left, make: impl Fn(&mut Model) -> *mut Tensor) {
    let (fake, registry) = loaded();
    let (backend, mut model) = (Backend::new(registry), Model::new());
    let product = make(&mut model);
    let w = model.weights(TernaryType::Tq2_0, [256, 64, 1]);
    let x = model.f32([256, 2, 1, 1]);
    let other = model.mul_mat(w, x);
    let graph = model.graph(&[product, other]);
    let before = state(graph);
    fake.control.threads.store(2, SeqCst);
    for graphs in 1..=2 {
        // SAFETY: a product.
        let expected = unsafe { reference(&*product) };
        assert_eq!(backend.compute(graph), SUCCESS);
        assert_eq!(state(graph), before);
        // SAFETY: a product whose data is f32 at its strides.
        let got = unsafe { (*product).data.cast::<f32>().read_unaligned() };
        assert_eq!(got.to_bits(), expected[0].to_bits());
        assert_eq!(fake.control.products.load(SeqCst), graphs);
        assert_eq!(stats(registry).products(), graphs as u64);
        for reason in ALL {
            let count = if reason == why { graphs as u64 } else { 0 };
            assert_eq!(stats(registry).left_for(reason), count, "{reason:?}");
        }
    }
    // SAFETY: a product.
    let expected = unsafe { reference(&*other) };
    assert!(super::values::near(&read(other), &expected));
}

/// A product of weights that are changed before.
fn changed(why: Left, change: impl Fn(&mut Model, &mut Tensor, &mut Tensor)) {
    left(why, |model| {
        let w = model.weights(TernaryType::Q2_0, [256, 64, 1]);
        let x = model.f32([256, 3, 1, 1]);
        // SAFETY: two tensors that nobody else has.
        unsafe { change(model, &mut *w, &mut *x) };
        model.mul_mat(w, x)
    });
}

#[test]
fn weights_outside_of_a_buffer_of_weights() {
    changed(Left::Buffer, |_, w, _| w.buffer = core::ptr::null_mut());
    // Of another usage; not plain memory.
    for (usage, host) in [(0, true), (2, true), (WEIGHTS, false)] {
        changed(Left::Buffer, |_, w, _| w.buffer = buffer(usage, host));
    }
}

#[test]
fn weights_that_are_not_ternary() {
    // Code 3, in the first weight and in the last.
    changed(Left::NotTernary, |_, w, _| {
        // SAFETY: a block: a scale of 2 bytes, then four codes a byte.
        unsafe { *w.data.add(2) |= 3 };
    });
    changed(Left::NotTernary, |_, w, _| {
        // SAFETY: the last byte of the tensor.
        unsafe { *w.data.add(64 * 4 * 18 - 1) |= 0xC0 };
    });
    // A scale of NaN and of infinity, as f16.
    for scale in [0x7E00_u16, 0x7C00, 0xFC00] {
        changed(Left::NotTernary, |_, w, _| {
            // SAFETY: the first scale.
            unsafe { w.data.cast::<u16>().write_unaligned(scale) };
        });
    }
}

#[test]
fn an_expert_that_is_not_ternary() {
    left(Left::NotTernary, |model| {
        let w = model.weights(TernaryType::Q2_0, [256, 64, 3]);
        // SAFETY: the second expert's first codes.
        unsafe { *(*w).data.add(64 * 4 * 18 + 2) |= 3 };
        let x = model.f32([256, 1, 3, 1]);
        let ids = model.ids([1, 3], &[0, 2, 1]);
        model.mul_mat_id(w, x, ids)
    });
}

#[test]
fn odd_strides_of_weights() {
    // Rows with a gap, and every second row.
    changed(Left::Layout, |_, w, _| {
        w.ne[1] = 32;
        w.nb[1] *= 2;
        (w.nb[2], w.nb[3]) = (w.nb[1] * 32, w.nb[1] * 32);
    });
    // Blocks with a gap.
    changed(Left::Layout, |_, w, _| {
        (w.ne[1], w.nb[0]) = (32, 36);
        w.nb[1] = 4 * 36;
        (w.nb[2], w.nb[3]) = (w.nb[1] * 32, w.nb[1] * 32);
    });
}

#[test]
fn batches_of_weights() {
    left(Left::Layout, |model| {
        let w = model.weights(TernaryType::Tq1_0, [256, 64, 2]);
        let x = model.f32([256, 3, 4, 1]);
        model.mul_mat(w, x)
    });
    left(Left::Layout, |model| {
        let w = model.weights(TernaryType::Tq1_0, [256, 64, 2]);
        let x = model.f32([256, 3, 1, 2]);
        // SAFETY: the same two matrices.
        unsafe { ((*w).ne, (*w).nb[3]) = ([256, 64, 1, 2], (*w).nb[2]) };
        model.mul_mat(w, x)
    });
}

/// An output that is in the memory of the numbers of its experts.
#[test]
fn outputs_over_the_numbers_of_experts() {
    let (fake, registry) = loaded();
    let (backend, mut model) = (Backend::new(registry), Model::new());
    let w = model.weights(TernaryType::Tq2_0, [256, 64, 3]);
    let x = model.f32([256, 1, 3, 1]);
    let ids = model.ids([2, 3], &[0, 1, 2, 2, 1, 0]);
    let product = model.mul_mat_id(w, x, ids);
    // SAFETY: the numbers lie in the output's last values.
    unsafe {
        let to = (*product).data.add(4 * (64 * 6 - 6));
        to.copy_from_nonoverlapping((*ids).data, 4 * 6);
        (*ids).data = to;
    }
    assert_eq!(backend.compute(model.graph(&[product])), SUCCESS);
    assert_eq!(stats(registry).left_for(Left::Layout), 1);
    assert_eq!(fake.control.products.load(SeqCst), 1);
}

#[test]
fn numbers_of_experts_transposed() {
    left(Left::Layout, |model| {
        let w = model.weights(TernaryType::Tq2_0, [256, 64, 3]);
        let x = model.f32([256, 1, 3, 1]);
        let ids = model.ids([2, 3], &[0, 1, 2, 2, 1, 0]);
        // SAFETY: a view of the numbers by the other dimension first.
        unsafe { (*ids).nb = [12, 4, 24, 24] };
        model.mul_mat_id(w, x, ids)
    });
}

/// A routed product that has lost the numbers of its experts.
#[test]
fn experts_without_numbers() {
    left(Left::Layout, |model| {
        let w = model.weights(TernaryType::Tq2_0, [256, 64, 3]);
        let x = model.f32([256, 1, 3, 1]);
        let ids = model.ids([1, 3], &[0, 1, 2]);
        let product = model.mul_mat_id(w, x, ids);
        // SAFETY: a node that nobody else has.
        unsafe { (*product).src[2] = core::ptr::null_mut() };
        product
    });
}

#[test]
fn activations_of_another_type() {
    left(Left::Layout, |model| {
        let w = model.weights(TernaryType::Tq2_0, [256, 64, 1]);
        let x = model.f16([256, 3, 1, 1]);
        model.mul_mat(w, x)
    });
    // Of the size of f32.
    changed(Left::Layout, |_, _, x| x.ty = I32);
}

#[test]
fn odd_strides_of_activations() {
    // Permuted: a batch whose rows are not at one distance.
    changed(Left::Layout, |model, _, x| {
        x.data = model.allocate(6 * 2048);
        (x.ne, x.nb) = ([256, 3, 2, 1], [4, 2048, 1024, 2048]);
        // SAFETY: memory of that many.
        unsafe { x.data.write_bytes(0, 6 * 2048) };
    });
    // The same of the outer batch.
    changed(Left::Layout, |model, _, x| {
        x.data = model.allocate(6 * 2048);
        (x.ne, x.nb) = ([256, 1, 2, 3], [4, 1024, 1024, 4096]);
        // SAFETY: memory of that many.
        unsafe { x.data.write_bytes(0, 6 * 2048) };
    });
    // Transposed: a row's values are apart.
    changed(Left::Layout, |model, _, x| {
        x.data = model.allocate(256 * 4 * 3);
        x.nb = [12, 4, 3072, 3072];
        // SAFETY: memory of that many.
        unsafe { x.data.write_bytes(0, 256 * 4 * 3) };
    });
    // Rows at no whole number of values.
    changed(Left::Layout, |model, _, x| {
        x.data = model.allocate(1026 * 3);
        x.nb = [4, 1026, 3078, 3078];
        // SAFETY: memory of that many.
        unsafe { x.data.write_bytes(0, 1026 * 3) };
    });
    // Rows that overlap.
    changed(Left::Layout, |_, _, x| {
        x.nb = [4, 512, 1536, 1536];
    });
}

/// Views may start between two values.
#[test]
fn activations_and_outputs_between_words() {
    left(Left::Layout, |model| {
        let w = model.weights(TernaryType::Tq2_0, [256, 64, 1]);
        let x = model.f32([257, 3, 1, 1]);
        // SAFETY: a view within its data.
        unsafe { ((*x).data, (*x).ne[0]) = ((*x).data.add(2), 256) };
        model.mul_mat(w, x)
    });
    left(Left::Layout, |model| {
        let w = model.weights(TernaryType::Tq2_0, [256, 64, 1]);
        let x = model.f32([256, 3, 1, 1]);
        let product = model.mul_mat(w, x);
        // SAFETY: within memory of its own.
        unsafe { (*product).data = model.allocate(4 * 64 * 3 + 4).add(1) };
        product
    });
}

/// An output that is in its input's memory.
#[test]
fn outputs_over_their_activations() {
    // 4096 bytes of activations and 1024 of outputs.
    for at in [0, 1024, 3072] {
        left(Left::Layout, |model| {
            let w = model.weights(TernaryType::Tq2_0, [256, 64, 1]);
            let x = model.f32([256, 4, 1, 1]);
            let product = model.mul_mat(w, x);
            // SAFETY: within the input's data.
            unsafe { (*product).data = (*x).data.add(at) };
            product
        });
    }
}

/// No token, and no row of activations for those that experts are asked for.
#[test]
fn products_of_nothing() {
    nothing(|model| {
        let w = model.weights(TernaryType::Tq2_0, [256, 64, 1]);
        let x = model.f32([256, 0, 1, 1]);
        model.mul_mat(w, x)
    });
    for (x_used, used, tokens) in [(0, 0, 1), (0, 2, 0), (1, 2, 0), (1, 0, 2)] {
        nothing(|model| {
            let w = model.weights(TernaryType::Tq2_0, [256, 64, 2]);
            let x = model.f32([256, x_used, tokens, 1]);
            let ids = model.ids([used, tokens], &[]);
            model.mul_mat_id(w, x, ids)
        });
    }
}

/// Computes a product of no outputs, which ggml has, and which nobody counts.
fn nothing(make: impl Fn(&mut Model) -> *mut Tensor) {
    let (fake, registry) = loaded();
    let (backend, mut model) = (Backend::new(registry), Model::new());
    let product = make(&mut model);
    assert_eq!(backend.compute(model.graph(&[product])), SUCCESS);
    assert_eq!(stats(registry).left_for(Left::Layout), 0);
    assert_eq!(fake.control.products.load(SeqCst), 1);
}

#[test]
fn outputs_that_lie_apart() {
    left(Left::Layout, |model| {
        let w = model.weights(TernaryType::Tq2_0, [256, 64, 1]);
        let x = model.f32([256, 3, 1, 1]);
        let product = model.mul_mat(w, x);
        // SAFETY: memory for rows at that distance.
        unsafe {
            (*product).data = model.allocate(3 * 512);
            (*product).nb = [4, 512, 1536, 1536];
        }
        product
    });
}

/// What ggml makes of weights that are not ternary is not ours to say.
#[test]
fn the_reference_marks_what_it_does_not_know() {
    let mut model = {
        _ = loaded();
        Model::new()
    };
    let w = model.weights(TernaryType::Tq2_0, [256, 1, 1]);
    let x = model.f16([256, 1, 1, 1]);
    let product = model.mul_mat(w, x);
    // SAFETY: a product.
    assert_eq!(unsafe { reference(&*product) }, [MARK]);
}
