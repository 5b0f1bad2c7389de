//! Tells the linker how to make code of memory accesses.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Whoever builds this crate for the kernel says for which CPU.
    println!("cargo:rustc-check-cfg=cfg(bpf_target_arch, values(any()))");
    // In-order expansion crashes LLVM 22 on larger functions ("Post-RA pseudo instruction
    // expansion"), and keeps every copied word in a register of its own until the copy is done.
    println!("cargo:rustc-link-arg-bins=--disable-expand-memcpy-in-order");
    // Headers lie at odd pairs of bytes, and every 64-bit kernel reads unaligned words of packets and
    // tables. (LLVM 22 has this; the linker that `cargo xtask setup` installs is built with it.)
    println!("cargo:rustc-link-arg-bins=--cpu-features=+allows-misaligned-mem-access");
}
