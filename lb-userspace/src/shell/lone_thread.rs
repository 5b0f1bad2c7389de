//! For tests that need root: a thread with namespaces of its own.
//!
//! They belong to the thread alone and vanish with it, also when a test panics, so nothing is left
//! on the host and tests may run side by side.

use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};

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

/// Another host: a thread with an empty network of its own, which does what it is told.
pub(crate) struct Host {
    orders: Sender<Box<dyn FnOnce() + Send>>,
    thread: String,
}

impl Host {
    pub(crate) fn new() -> Self {
        let (orders, queue) = channel::<Box<dyn FnOnce() + Send>>();
        let (tell, thread) = channel();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace needs root");
            // `/proc/thread-self` leads to `PROCESS/task/THREAD`.
            let own = std::fs::read_link("/proc/thread-self").expect("/proc");
            tell.send(own).expect("somebody who waits for it");
            queue.into_iter().for_each(|order| order());
        });
        let own: PathBuf = thread.recv().expect("the thread's number");
        let thread = own.file_name().expect("a number").to_string_lossy();
        Self {
            orders,
            thread: thread.into_owned(),
        }
    }

    /// Does something on that host, and waits for what comes of it.
    pub(crate) fn run<T: Send + 'static>(&self, order: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, result) = channel();
        let order = Box::new(move || _ = tell.send(order()));
        self.orders.send(order).expect("the host is there");
        result.recv().expect("the order is carried out")
    }

    /// Runs `ip` on that host.
    pub(crate) fn ip(&self, arguments: &str) {
        let arguments = arguments.to_owned();
        self.run(move || ip(&arguments));
    }

    /// Gives that host an interface of the thread that calls.
    pub(crate) fn take(&self, interface: &str) {
        ip(&format!("link set {interface} netns {}", self.thread));
    }
}

fn run_apart(test: impl FnOnce() + Send) {
    let outcome = std::thread::scope(|scope| scope.spawn(test).join());
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}
