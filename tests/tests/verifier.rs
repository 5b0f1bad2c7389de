//! The kernel accepts the program.

use aya::EbpfLoader;
use aya::programs::Xdp;

#[test]
fn loads() {
    let dir = std::path::Path::new("/sys/fs/bpf/pglb-verifier");
    std::fs::create_dir_all(dir).unwrap();
    let mut ebpf = EbpfLoader::new()
        .default_map_pin_directory(dir)
        .load(lb_userspace::shell::bpf::OBJECT)
        .unwrap();
    let program: &mut Xdp = ebpf.program_mut("pglb").unwrap().try_into().unwrap();
    let result = program.load();
    std::fs::remove_dir_all(dir).unwrap();
    if let Err(error) = result {
        panic!("{error:?}");
    }
}
