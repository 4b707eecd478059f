//! Layers and prepared activations are shared by reference.

use crate::{cases, results};
use std::sync::Barrier;
use tritgemm::{Options, Workspace};
use tritgemm_testing::{backends, quick, workspace};

/// 64 threads that start together, each with a workspace of its own.
fn on_64_threads(work: impl Fn(usize) + Sync) {
    const THREADS: usize = 64;
    let barrier = Barrier::new(THREADS);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (barrier, work) = (&barrier, &work);
            scope.spawn(move || {
                barrier.wait();
                work(thread);
            });
        }
    });
}

#[test]
fn one_layer_for_64_threads() {
    let backends = backends();
    for case in &cases() {
        let wanted = results(case, &mut Workspace::new());
        on_64_threads(|thread| {
            // The threads take different backends at a time.
            let backend = backends[thread % backends.len()];
            let ws = &mut workspace(Options::new().backend(backend));
            for _ in 0..if quick() { 1 } else { 2 } {
                assert!(results(case, ws) == wanted, "thread {thread}, {backend:?}");
            }
        });
    }
}

#[test]
fn prepared_activations_for_64_threads() {
    for case in &cases() {
        let ws = &mut Workspace::new();
        let strided = case.strided(&case.x_f32, f32::NAN);
        let x = case.strided_view(&strided);
        let x = case.layer.prepare_f32(x, ws).expect("prepared");
        let wanted = case.forward_f32(ws);
        on_64_threads(|thread| {
            let got = case.prepared_f32(&x, &mut Workspace::new());
            assert!(got == wanted, "thread {thread}");
        });
    }
}

/// Whoever asks gets the same backends.
#[test]
fn detection_from_64_threads() {
    let first = tritgemm::Backend::active();
    on_64_threads(|_| {
        assert_eq!(tritgemm::Backend::active(), first);
        assert_eq!(
            backends(),
            tritgemm::Backend::available().collect::<Vec<_>>()
        );
    });
}
