//! Tells the linker how to expand copies of memory.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // In-order expansion crashes LLVM 22 on larger functions ("Post-RA pseudo instruction
    // expansion"), and keeps every copied word in a register of its own until the copy is done.
    println!("cargo:rustc-link-arg-bins=--disable-expand-memcpy-in-order");
}
