//! Products of one input, computed at the node of the first.

use crate::fake::{
    ABORTED, Backend, Fake, MARK, Model, buffer, loaded, read, reference, state, stats, write,
};
use crate::sys::{Registry, SUCCESS, Tensor};
use core::sync::atomic::Ordering::SeqCst;
use std::sync::Arc;
use tritgemm_formats::ggml::TernaryType;

const TQ2: TernaryType = TernaryType::Tq2_0;

/// A product of `x` and `rows` rows.
fn product(model: &mut Model, ty: TernaryType, rows: i64, x: *mut Tensor) -> *mut Tensor {
    let w = model.weights(ty, [256, rows, 1]);
    model.mul_mat(w, x)
}

/// One that ggml computes.
fn left(model: &mut Model, rows: i64, x: *mut Tensor) -> *mut Tensor {
    let w = model.weights(TQ2, [256, rows, 1]);
    // SAFETY: a tensor that nobody else has.
    unsafe { (*w).buffer = buffer(0, true) };
    model.mul_mat(w, x)
}

/// Nodes of the plug-in's that ggml comes to in a graph, where those of `products` have to be
/// right.
fn nodes(
    (fake, registry): &(Arc<Fake>, *mut Registry),
    model: &mut Model,
    graph: &[*mut Tensor],
    products: &[*mut Tensor],
) -> usize {
    // SAFETY: products, whose inputs are what they will be when they are computed.
    let expected = products.iter().map(|it| unsafe { reference(&**it) });
    let expected: Vec<_> = expected.collect();
    let (backend, graph) = (Backend::new(*registry), model.graph(graph));
    let before = (state(graph), stats(*registry).products());
    // To pack; that is a node, too.
    assert_eq!(backend.compute(graph), SUCCESS);
    let each = stats(*registry).products() - before.1;
    fake.control.products.store(0, SeqCst);
    for threads in [1, 2, 3] {
        for &product in products {
            write(product, &vec![MARK; read(product).len()]);
        }
        fake.control.threads.store(threads, SeqCst);
        fake.control.customs.store(0, SeqCst);
        assert_eq!(backend.compute(graph), SUCCESS);
        assert_eq!(state(graph), before.0);
        for (&product, expected) in products.iter().zip(&expected) {
            assert!(super::values::near(&read(product), expected));
        }
    }
    assert_eq!(stats(*registry).products() - before.1, 4 * each);
    assert_eq!(fake.control.products.load(SeqCst), 0);
    fake.control.customs.load(SeqCst)
}

#[test]
fn products_of_one_input_are_one_node() {
    let plugin = loaded();
    for ty in [TQ2, TernaryType::Q2_0] {
        let mut model = Model::new();
        let x = model.f32([256, 5, 1, 1]);
        let [q, k, v] = [256, 64, 65].map(|rows| product(&mut model, ty, rows, x));
        // What is done with the first one comes between.
        let rotated = model.double(q, true);
        let all = [q, k, v];
        assert_eq!(nodes(&plugin, &mut model, &[q, k, v], &all), 1);
        assert_eq!(nodes(&plugin, &mut model, &[q, rotated, k, v], &[k, v]), 1);
    }
}

#[test]
fn others_are_nodes_of_their_own() {
    let plugin = loaded();
    let mut model = Model::new();
    let [x, other] = [5, 5].map(|n| model.f32([256, n, 1, 1]));
    let a = product(&mut model, TQ2, 64, x);
    let of_another_type = product(&mut model, TernaryType::Tq1_0, 64, x);
    let of_another_input = product(&mut model, TQ2, 64, other);
    let all = [a, of_another_type];
    assert_eq!(nodes(&plugin, &mut model, &all, &all), 2);
    let all = [a, of_another_input];
    assert_eq!(nodes(&plugin, &mut model, &all, &all), 2);
}

/// An output is where nothing lies that is still needed: what a node between two products reads
/// or writes may lie there before.
#[test]
fn an_output_that_is_in_use_before_waits() {
    let (_, registry) = loaded();
    for written in [false, true] {
        let (backend, mut model) = (Backend::new(registry), Model::new());
        let [x, y] = [5, 5].map(|n| model.f32([256, n, 1, 1]));
        let first = product(&mut model, TQ2, 64, x);
        let between = left(&mut model, 256, y);
        let second = product(&mut model, TQ2, 256, x);
        let used = if written { between } else { y };
        // SAFETY: nodes that nobody uses now.
        unsafe { (*second).data = (*used).data };
        let (graph, values) = (model.graph(&[first, between, second]), read(y));
        let all = [first, between, second];
        // SAFETY: products.
        let expected = all.map(|it| unsafe { reference(&*it) });
        for _ in 0..2 {
            write(y, &values);
            assert_eq!(backend.compute(graph), SUCCESS);
            for (product, expected) in all.into_iter().zip(&expected) {
                let overwritten = written && product == between;
                assert!(overwritten || super::values::near(&read(product), expected));
            }
        }
    }
}

/// An output that was written early is written again by the next graph.
#[test]
fn an_abort_between_products_of_one_input_restores_both() {
    let (fake, registry) = loaded();
    let (backend, mut model) = (Backend::new(registry), Model::new());
    let x = model.f32([256, 2, 1, 1]);
    let all = [64, 128].map(|rows| product(&mut model, TQ2, rows, x));
    let graph = model.graph(&all);
    let before = state(graph);
    assert_eq!(backend.compute(graph), SUCCESS);
    let expected = all.map(read);
    fake.control.abort_after.store(1, SeqCst);
    assert_eq!(backend.compute(graph), ABORTED);
    assert_eq!(state(graph), before);
    fake.control.abort_after.store(usize::MAX, SeqCst);
    all.into_iter().for_each(|it| write(it, &[MARK]));
    assert_eq!(backend.compute(graph), SUCCESS);
    assert_eq!(all.map(read), expected);
    assert_eq!(fake.control.products.load(SeqCst), 0);
}
