//! `pglb run`

/// Not built yet.
pub fn run(_: &crate::cli::RunArgs) -> anyhow::Result<std::process::ExitCode> {
    anyhow::bail!("not built yet")
}
