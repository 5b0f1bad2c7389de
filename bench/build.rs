//! Builds the reference programs (`bench/ebpf`) and leaves their object file in `OUT_DIR`.

#[path = "../lb-userspace/build/xdp.rs"]
mod xdp;

fn main() -> std::process::ExitCode {
    xdp::build("bench-ebpf", "ebpf")
}
