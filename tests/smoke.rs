use tritgemm::*;
fn rng(s: &mut u64) -> u64 {
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    *s
}
#[test]
fn all_paths_agree() {
    let mut s = 88172645463325252u64;
    for (m, k) in [
        (1, 1),
        (64, 12),
        (65, 13),
        (130, 240),
        (128, 241),
        (63, 777),
        (200, 1000),
        (70, 6500),
        (0, 5),
        (5, 0),
        (64, 60000),
    ] {
        for n in [0usize, 1, 2, 3, 5, 9, 16, 17, 32, 33, 40] {
            if k > 5000 && n > 9 && n != 33 {
                continue;
            }
            let w: Vec<i8> = (0..m * k).map(|_| (rng(&mut s) % 3) as i8 - 1).collect();
            let x: Vec<i8> = (0..n * k).map(|_| rng(&mut s) as i8).collect();
            let xf: Vec<f32> = (0..n * k)
                .map(|_| (rng(&mut s) as i32 as f32) * 1e-6)
                .collect();
            let scales: Vec<f32> = (0..m).map(|i| 0.5 + i as f32).collect();
            let tm = TernaryMatrix::from_trits(&w, m, k, Scales::per_row(scales.clone())).unwrap();
            let lin = Linear::new(&tm).unwrap();
            let mut want = vec![0i32; n * m];
            for t in 0..n {
                for r in 0..m {
                    want[t * m + r] = (0..k)
                        .map(|j| w[r * k + j] as i32 * x[t * k + j] as i32)
                        .sum();
                }
            }
            let mut wantf: Option<Vec<u32>> = None;
            for b in Backend::available().collect::<Vec<_>>().into_iter().rev() {
                for lanes in [Lanes::Row, Lanes::Column, Lanes::Auto] {
                    let mut ws = Workspace::with_options(Options::new().backend(b).lanes(lanes));
                    let mut y = vec![7i32; n * m];
                    lin.panels()
                        .gemm_i8(
                            MatRef::new(&x, n, k).unwrap(),
                            MatMut::new(&mut y, n, m).unwrap(),
                            &mut ws,
                        )
                        .unwrap();
                    assert_eq!(y, want, "{b:?} {lanes:?} {m} {k} {n}");
                    let mut y = vec![7f32; n * m];
                    lin.forward_f32(
                        MatRef::new(&xf, n, k).unwrap(),
                        MatMut::new(&mut y, n, m).unwrap(),
                        &mut ws,
                    )
                    .unwrap();
                    let bits: Vec<u32> = y.iter().map(|v| v.to_bits()).collect();
                    match &wantf {
                        None => wantf = Some(bits),
                        Some(w) => assert_eq!(w, &bits, "{b:?} {lanes:?} {m} {k} {n}"),
                    }
                }
            }
        }
    }
}
