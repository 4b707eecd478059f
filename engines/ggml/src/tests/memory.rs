//! Weights packed once, and prepared activations that are shared.

use crate::fake::{Backend, Model, loaded, plugin, read, reference, stats, write};
use crate::graph::lock;
use crate::stats::Left;
use crate::sys::{Registry, SUCCESS, Tensor};
use core::sync::atomic::Ordering::SeqCst;
use std::thread;
use tritgemm_formats::ggml::TernaryType;

/// Packed weights of a plug-in that somebody has.
fn alive(registry: *mut Registry) -> usize {
    lock(&plugin(registry).shared).alive()
}

fn right(product: *mut Tensor) -> bool {
    // SAFETY: a product.
    super::values::near(&read(product), &unsafe { reference(&*product) })
}

/// A product of `m` outputs.
fn product(model: &mut Model, m: i64) -> (*mut Tensor, *mut Tensor) {
    let w = model.weights(TernaryType::Tq2_0, [256, m, 1]);
    let x = model.f32([256, 2, 1, 1]);
    (w, model.mul_mat(w, x))
}

#[test]
fn streams_share_what_is_packed_and_the_last_one_frees_it() {
    let (fake, registry) = loaded();
    let mut model = Model::new();
    let products = [64, 65].map(|m| product(&mut model, m).1);
    let graph = model.graph(&products);
    let first = Backend::new(registry);
    assert_eq!(first.compute(graph), SUCCESS);
    let packed = stats(registry).packed_bytes();
    assert!(packed > 0);
    // A graph to pack, and the graph.
    assert_eq!(fake.control.graphs.load(SeqCst), 2);
    let second = Backend::new(registry);
    for _ in 0..2 {
        assert_eq!(first.compute(graph), SUCCESS);
        assert_eq!(second.compute(graph), SUCCESS);
    }
    assert_eq!(stats(registry).packed_bytes(), packed);
    assert_eq!(fake.control.graphs.load(SeqCst), 6);
    assert_eq!(alive(registry), 2);
    drop(first);
    assert_eq!(alive(registry), 2);
    assert_eq!(second.compute(graph), SUCCESS);
    assert_eq!(stats(registry).packed_bytes(), packed);
    drop(second);
    assert_eq!(alive(registry), 0);
    // The next one packs anew, and so on.
    for loads in 2..50 {
        let next = Backend::new(registry);
        assert_eq!(next.compute(graph), SUCCESS);
        assert_eq!(stats(registry).packed_bytes(), loads * packed);
        drop(next);
        assert_eq!(alive(registry), 0);
    }
    assert!(products.into_iter().all(right));
}

#[test]
fn streams_on_two_threads_do_not_meet() {
    let (fake, registry) = loaded();
    fake.control.threads.store(2, SeqCst);
    let address = registry as usize;
    let mut shared = Model::new();
    let w = shared.weights(TernaryType::Tq1_0, [512, 130, 1]) as usize;
    thread::scope(|threads| {
        for stream in 0..2 {
            let fake = &fake;
            threads.spawn(move || {
                fake.enter();
                let (backend, mut model) = (Backend::new(address as *mut Registry), Model::new());
                let x = model.f32([512, 1 + stream, 1, 1]);
                let y = model.mul_mat(w as *mut Tensor, x);
                let own = model.weights(TernaryType::Q2_0, [128, 70, 1]);
                let narrow = model.f32([128, 3, 1, 1]);
                let z = model.mul_mat(own, narrow);
                let graph = model.graph(&[y, z]);
                for _ in 0..20 {
                    assert_eq!(backend.compute(graph), SUCCESS);
                    assert!(right(y) && right(z));
                }
            });
        }
    });
    assert_eq!(stats(registry).products(), 80);
    assert_eq!(fake.control.products.load(SeqCst), 0);
    assert_eq!(alive(registry), 0);
}

/// Other weights at one address, that differ at their start, in their middle or at their end.
#[test]
fn weights_that_change_are_packed_again() {
    let (fake, registry) = loaded();
    let (backend, mut model) = (Backend::new(registry), Model::new());
    let (w, product) = product(&mut model, 64);
    let graph = model.graph(&[product]);
    let bytes = 64 * 66;
    for (packed, at) in [(1, 0), (2, 5), (3, bytes / 2), (4, bytes - 3)] {
        // SAFETY: bytes of four trits each, of which 0 are all -1.
        unsafe { *(*w).data.add(at) = 0 };
        for _ in 0..2 {
            assert_eq!(backend.compute(graph), SUCCESS);
            assert!(right(product), "byte {at}");
        }
        let one = stats(registry).packed_bytes() / packed;
        assert_eq!(stats(registry).packed_bytes(), packed * one);
        assert_eq!(fake.control.graphs.load(SeqCst) as u64, 3 * packed);
    }
    assert_eq!(alive(registry), 1);
}

/// Weights that are gone are not kept for others that are where they were.
#[test]
fn other_weights_at_an_address_drive_out_what_was_there() {
    let (_, registry) = loaded();
    let (backend, mut model) = (Backend::new(registry), Model::new());
    let (w, first) = product(&mut model, 128);
    assert_eq!(backend.compute(model.graph(&[first])), SUCCESS);
    assert_eq!(alive(registry), 1);
    let (other, second) = product(&mut model, 64);
    // SAFETY: two matrices, the second of fewer bytes.
    unsafe {
        let bytes = (*other).nb[2];
        (*w).data.copy_from_nonoverlapping((*other).data, bytes);
        (*other).data = (*w).data;
    }
    assert_eq!(backend.compute(model.graph(&[second])), SUCCESS);
    assert!(right(second));
    assert_eq!(alive(registry), 1);
}

#[test]
fn weights_that_a_graph_uses_twice_are_packed_once() {
    let (_, registry) = loaded();
    let (backend, mut model) = (Backend::new(registry), Model::new());
    let (w, first) = product(&mut model, 64);
    assert_eq!(backend.compute(model.graph(&[first])), SUCCESS);
    let once = stats(registry).packed_bytes();
    drop(backend);
    let x = model.f32([256, 3, 1, 1]);
    let second = model.mul_mat(w, x);
    let backend = Backend::new(registry);
    assert_eq!(backend.compute(model.graph(&[first, second])), SUCCESS);
    assert_eq!(stats(registry).packed_bytes(), 2 * once);
    assert!(right(first) && right(second));
}

/// A matrix and the matrix of its first rows are at one address.
#[test]
fn two_shapes_at_an_address_do_not_drive_each_other_out() {
    let (_, registry) = loaded();
    let (backend, mut model) = (Backend::new(registry), Model::new());
    let (w, whole) = product(&mut model, 128);
    let part = model.weights(TernaryType::Tq2_0, [256, 64, 1]);
    // SAFETY: a view of the first rows.
    unsafe { (*part).data = (*w).data };
    let x = model.f32([256, 2, 1, 1]);
    let part = model.mul_mat(part, x);
    let graph = model.graph(&[whole, part]);
    assert_eq!(backend.compute(graph), SUCCESS);
    let packed = stats(registry).packed_bytes();
    for _ in 0..3 {
        assert_eq!(backend.compute(graph), SUCCESS);
    }
    assert!(right(whole) && right(part));
    assert_eq!(stats(registry).packed_bytes(), packed);
    assert_eq!(alive(registry), 2);
}

/// A graph that ggml did not run packs nothing, and the next one does.
#[test]
fn what_could_not_be_packed_is_packed_later() {
    let (fake, registry) = loaded();
    let (backend, mut model) = (Backend::new(registry), Model::new());
    let (_, product) = product(&mut model, 64);
    let graph = model.graph(&[product]);
    fake.control.refuse.store(true, SeqCst);
    assert_ne!(backend.compute(graph), SUCCESS);
    assert_eq!(stats(registry).products(), 0);
    assert_eq!(stats(registry).left_for(Left::Memory), 1);
    fake.control.refuse.store(false, SeqCst);
    assert_eq!(backend.compute(graph), SUCCESS);
    assert_eq!(stats(registry).products(), 1);
    assert_eq!(fake.control.products.load(SeqCst), 0);
    assert!(right(product));
}

/// Two products of `types` of one input, with something between them that doubles it: what
/// the second one is, as multiples of what it would be without.
fn second(types: [TernaryType; 2], unseen: bool) -> f32 {
    let (fake, registry) = loaded();
    let (backend, mut model) = (Backend::new(registry), Model::new());
    let x = model.f32([256, 3, 1, 1]);
    let [a, b] = types.map(|ty| {
        let w = model.weights(ty, [256, 64, 1]);
        model.mul_mat(w, x)
    });
    let between = model.double(x, unseen);
    let graph = model.graph(&[a, between, b]);
    // SAFETY: products.
    let [first, alone] = [a, b].map(|it| unsafe { reference(&*it) });
    fake.control.threads.store(2, SeqCst);
    assert_eq!(backend.compute(graph), SUCCESS);
    assert!(super::values::near(&read(a), &first));
    let got = read(b);
    let times = [1.0, 2.0].into_iter().find(|times| {
        let expected: Vec<f32> = alone.iter().map(|v| v * times).collect();
        super::values::near(&got, &expected)
    });
    times.expect("a multiple")
}

#[test]
fn activations_are_prepared_once_for_products_of_one_input() {
    let (q2, tq2) = (TernaryType::Q2_0, TernaryType::Tq2_0);
    // What no node says it writes is not seen: the second product has what the first prepared.
    assert_eq!(second([tq2, tq2], true), 1.0);
    // Types may want them prepared in two ways.
    assert_eq!(second([q2, tq2], true), 2.0);
}

#[test]
fn activations_that_a_node_between_overwrites_are_prepared_again() {
    let (q2, tq2) = (TernaryType::Q2_0, TernaryType::Tq2_0);
    assert_eq!(second([tq2, tq2], false), 2.0);
    assert_eq!(second([q2, tq2], false), 2.0);
}

/// Two routed products of one input, of the same experts' numbers and of others.
#[test]
fn routed_products_share_activations_of_the_same_experts() {
    let (_, registry) = loaded();
    let (backend, mut model) = (Backend::new(registry), Model::new());
    let x = model.f32([256, 1, 3, 1]);
    let ids = model.ids([2, 3], &[0, 1, 2, 1, 0, 2]);
    let others = model.ids([2, 3], &[2, 0, 1, 0, 2, 1]);
    let products = [ids, ids, others].map(|ids| {
        let w = model.weights(TernaryType::Tq2_0, [256, 64, 3]);
        model.mul_mat_id(w, x, ids)
    });
    let graph = model.graph(&products);
    assert_eq!(backend.compute(graph), SUCCESS);
    assert!(products.into_iter().all(right));
    // What no node says it writes is not seen by the second one.
    let unseen = model.double(x, true);
    let graph = model.graph(&[products[0], unseen, products[1], products[2]]);
    let [_, second, third] = products.map(read);
    assert_eq!(backend.compute(graph), SUCCESS);
    assert_eq!(read(products[1]), second);
    let doubled: Vec<f32> = third.iter().map(|v| v * 2.0).collect();
    assert!(super::values::near(&read(products[2]), &doubled));
}

/// A product that overwrites its input: what follows it reads what it wrote.
#[test]
fn a_product_may_write_what_the_next_one_reads() {
    let (_, registry) = loaded();
    let (backend, mut model) = (Backend::new(registry), Model::new());
    let x = model.f32([256, 2, 1, 1]);
    let y = model.f32([256, 2, 1, 1]);
    let [a, b, c] = [x, y, x].map(|x| {
        let w = model.weights(TernaryType::Tq2_0, [256, 256, 1]);
        model.mul_mat(w, x)
    });
    // SAFETY: the second product's output is where the first one's input was.
    unsafe { (*b).data = (*x).data };
    write(y, &vec![0.25_f32; 512]);
    let graph = model.graph(&[a, b, c]);
    assert_eq!(backend.compute(graph), SUCCESS);
    assert!(right(b) && right(c));
}
