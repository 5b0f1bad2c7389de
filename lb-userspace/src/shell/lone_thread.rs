//! For tests that need root: a thread with namespaces of its own.
//!
//! They belong to the thread alone and vanish with it, also when a test panics, so nothing is left
//! on the host and tests may run side by side.

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Runs `test` where whatever it mounts nobody else sees.
pub(crate) fn with_own_mounts(test: impl FnOnce() + Send) {
    run_apart(|| {
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace needs root");
        let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).expect("private mounts");
        test();
    });
}

/// Runs `test` in an empty network; commands that it starts are in the same one.
pub(crate) fn with_own_network<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send) {
    run_apart(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace needs root");
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
            .block_on(test());
    });
}

/// Runs `ip` in the thread's own network.
pub(crate) fn ip(arguments: &str) {
    let status = std::process::Command::new("ip")
        .args(arguments.split_whitespace())
        .status()
        .expect("ip of iproute2");
    assert!(status.success(), "ip {arguments}");
}

fn run_apart(test: impl FnOnce() + Send) {
    let outcome = std::thread::scope(|scope| scope.spawn(test).join());
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}
