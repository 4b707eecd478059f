//! How a product runs: every kernel of this CPU, by chosen family and threads.

use arbitrary::Arbitrary;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::sync::OnceLock;
use tritgemm::{Family, Options, Threads, Workspace};
use tritgemm_testing::backends;

/// Family and threads, as the input has them.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Way {
    family: FamilyChoice,
    threads: ThreadChoice,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum FamilyChoice {
    Auto,
    Few,
    Many,
}

#[derive(Arbitrary, Clone, Copy, PartialEq, Eq, Debug)]
enum ThreadChoice {
    /// No pool, none wanted.
    Serial,
    /// A pool, none wanted.
    SerialInPool,
    /// A pool is wanted where there is none.
    Outside,
    /// A pool of three.
    Pool,
}

impl Way {
    /// Runs `work` once for every backend, in or out of a pool, each with a
    /// workspace of its own.
    pub fn on_every_backend(self, work: impl Fn(&mut Workspace) + Send + Sync) {
        let run = || {
            for backend in backends() {
                let options = Options::new()
                    .backend(backend)
                    .family(self.family())
                    .threads(self.threads());
                work(&mut Workspace::with_options(options));
            }
        };
        match self.threads {
            ThreadChoice::Serial | ThreadChoice::Outside => run(),
            ThreadChoice::SerialInPool | ThreadChoice::Pool => pool().install(run),
        }
    }

    fn family(self) -> Family {
        match self.family {
            FamilyChoice::Auto => Family::Auto,
            FamilyChoice::Few => Family::Few,
            FamilyChoice::Many => Family::Many,
        }
    }

    fn threads(self) -> Threads {
        match self.threads {
            ThreadChoice::Serial | ThreadChoice::SerialInPool => Threads::Serial,
            ThreadChoice::Outside | ThreadChoice::Pool => Threads::Rayon,
        }
    }
}

/// Three threads, whatever the machine has: uneven shares of the work.
fn pool() -> &'static ThreadPool {
    static POOL: OnceLock<ThreadPool> = OnceLock::new();
    POOL.get_or_init(|| {
        let pool = ThreadPoolBuilder::new().num_threads(3).build();
        pool.expect("threads")
    })
}
