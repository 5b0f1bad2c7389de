//! `pglb dump`

/// Not built yet.
pub fn run(_: &crate::cli::DumpArgs) -> anyhow::Result<std::process::ExitCode> {
    anyhow::bail!("not built yet")
}
