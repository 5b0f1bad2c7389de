//! The functional core: no tokio, no aya, no files, no clock.

pub mod observation;
