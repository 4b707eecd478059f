//! Nodes replaced and restored.

use crate::fake::{ABORTED, Backend, MARK, Model, loaded, read, reference, state, stats, write};
use crate::plugin::break_team;
use crate::sys::{FAILED, Graph, SUCCESS, Tensor};
use core::sync::atomic::Ordering::SeqCst;
use tritgemm_formats::ggml::TernaryType;

const TYPES: [TernaryType; 3] = [TernaryType::Tq1_0, TernaryType::Tq2_0, TernaryType::Q2_0];

/// A graph of three products, one after the other.
fn chain(model: &mut Model) -> ([*mut Tensor; 3], *mut Graph) {
    let mut x = model.f32([256, 5, 1, 1]);
    let products = TYPES.map(|ty| {
        let w = model.weights(ty, [256, 256, 1]);
        x = model.mul_mat(w, x);
        x
    });
    (products, model.graph(&products))
}

#[test]
fn nodes_are_restored_after_success() {
    let (fake, registry) = loaded();
    let (backend, mut model) = (Backend::new(registry), Model::new());
    let (_, graph) = chain(&mut model);
    let before = state(graph);
    for threads in [1, 3, 2] {
        fake.control.threads.store(threads, SeqCst);
        assert_eq!(backend.compute(graph), SUCCESS);
        assert_eq!(state(graph), before);
    }
    assert_eq!(stats(registry).products(), 9);
    assert_eq!(fake.control.products.load(SeqCst), 0);
}

#[test]
fn nodes_are_restored_after_an_error_of_ggml() {
    let (fake, registry) = loaded();
    let (backend, mut model) = (Backend::new(registry), Model::new());
    let (_, graph) = chain(&mut model);
    let before = state(graph);
    fake.control.fail.store(true, SeqCst);
    assert_eq!(backend.compute(graph), FAILED);
    assert_eq!(state(graph), before);
    fake.control.fail.store(false, SeqCst);
    assert_eq!(backend.compute(graph), SUCCESS);
    assert_eq!(state(graph), before);
    assert_eq!(fake.control.products.load(SeqCst), 0);
}

#[test]
fn nodes_are_restored_after_an_abort() {
    for threads in [1, 2, 3] {
        let (fake, registry) = loaded();
        let (backend, mut model) = (Backend::new(registry), Model::new());
        let (products, graph) = chain(&mut model);
        let before = state(graph);
        fake.control.threads.store(threads, SeqCst);
        // Weights are packed, then the graph is left in its middle, then it runs to its end.
        assert_eq!(backend.compute(graph), SUCCESS);
        let expected = read(products[2]);
        for nodes in [1, 2, 3] {
            write(products[2], &[MARK]);
            fake.control.abort_after.store(nodes, SeqCst);
            assert_eq!(backend.compute(graph), ABORTED);
            assert_eq!(state(graph), before);
            assert_eq!(read(products[2])[0] == MARK, nodes < 3);
        }
        fake.control.abort_after.store(usize::MAX, SeqCst);
        assert_eq!(backend.compute(graph), SUCCESS);
        assert_eq!(state(graph), before);
        assert_eq!(read(products[2]), expected);
        assert_eq!(stats(registry).products(), 3 + 1 + 2 + 3 + 3);
    }
}

#[test]
fn a_product_that_fails_fails_its_graph() {
    for threads in [1, 3] {
        for number in [-1, 4, i32::MAX, i32::MIN] {
            let (fake, registry) = loaded();
            let (backend, mut model) = (Backend::new(registry), Model::new());
            let w = model.weights(TernaryType::Tq2_0, [256, 64, 4]);
            let x = model.f32([256, 1, 3, 1]);
            let ids = model.ids([2, 3], &[0, 1, 2, number, 3, 0]);
            let routed = model.mul_mat_id(w, x, ids);
            let graph = model.graph(&[routed]);
            let before = state(graph);
            fake.control.threads.store(threads, SeqCst);
            assert_eq!(backend.compute(graph), FAILED);
            assert_eq!(state(graph), before);
            // The stream is as good as before.
            write(ids, &[0, 1, 2, 3, 3, 0]);
            assert_eq!(backend.compute(graph), SUCCESS);
            assert_eq!(state(graph), before);
            // SAFETY: a product.
            let expected = unsafe { reference(&*routed) };
            assert!(super::values::near(&read(routed), &expected));
        }
    }
}

#[test]
fn a_product_that_panics_fails_its_graph() {
    for threads in [1, 3] {
        let (fake, registry) = loaded();
        let (backend, mut model) = (Backend::new(registry), Model::new());
        let (products, graph) = chain(&mut model);
        let before = state(graph);
        fake.control.threads.store(threads, SeqCst);
        assert_eq!(backend.compute(graph), SUCCESS);
        let expected = read(products[2]);
        break_team(backend.0);
        for _ in 0..2 {
            assert_eq!(backend.compute(graph), FAILED);
            assert_eq!(state(graph), before);
        }
        // Others have teams of their own.
        write(products[2], &[MARK]);
        assert_eq!(Backend::new(registry).compute(graph), SUCCESS);
        assert_eq!(read(products[2]), expected);
    }
}

/// Parameters of every node differ: each has its own back, whatever was taken.
#[test]
fn nodes_between_products_are_not_touched() {
    let (_, registry) = loaded();
    let (backend, mut model) = (Backend::new(registry), Model::new());
    let x = model.f32([256, 2, 1, 1]);
    let w = model.weights(TernaryType::Tq2_0, [256, 256, 1]);
    let first = model.mul_mat(w, x);
    let doubled = model.double(first, false);
    let last = model.mul_mat(w, doubled);
    let graph = model.graph(&[first, doubled, last]);
    for (i, node) in [first, doubled, last].into_iter().enumerate() {
        // SAFETY: nodes that nobody uses now.
        unsafe { (*node).op_params = [i as i32; 16] };
    }
    let before = state(graph);
    assert_eq!(backend.compute(graph), SUCCESS);
    assert_eq!(state(graph), before);
    // SAFETY: a product.
    assert!(super::values::near(&read(last), &unsafe {
        reference(&*last)
    }));
}
