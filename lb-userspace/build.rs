//! Builds the XDP program (`lb-ebpf`) and leaves its object file in `OUT_DIR`, to be embedded.

#[path = "build/xdp.rs"]
mod xdp;

fn main() -> std::process::ExitCode {
    println!("cargo:rerun-if-changed=../lb-common/src");
    xdp::build("lb-ebpf", "../lb-ebpf")
}
