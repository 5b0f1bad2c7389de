//! All subjects in turn, in every round, beginning with another one each time.

use anyhow::Result;

use crate::feeder::Feeder;
use crate::subjects::Subject;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// Samples of each subject.
    pub(crate) rounds: u32,
    /// Packets of a sample.
    pub(crate) repetitions: u32,
}

/// The times of one subject, in nanoseconds for a packet, ascending.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    /// The value that `tenths` tenths of the samples stay under.
    pub(crate) fn quantile(&self, tenths: usize) -> f64 {
        let last = self.0.len().saturating_sub(1);
        self.0.get(last * tenths / 10).copied().unwrap_or(f64::NAN)
    }

    /// The value in the middle.
    pub(crate) fn median(&self) -> f64 {
        self.quantile(5)
    }
}

/// The samples of each subject, in the order of the subjects.
pub(crate) fn in_turn(
    feeder: &mut Feeder,
    subjects: &[Subject],
    effort: Effort,
) -> Result<Vec<Samples>> {
    let mut samples = vec![Samples::default(); subjects.len()];
    for round in 0..effort.rounds as usize {
        // A prime step, so that neighbours in the list do not always begin.
        let start = round * 7;
        for turn in 0..subjects.len() {
            let index = (start + turn) % subjects.len();
            let subject = &subjects[index];
            let (time, action) =
                feeder.measure(&subject.feed, &subject.code, effort.repetitions)?;
            subject.check_action(action)?;
            samples[index].0.push(time);
        }
    }
    for samples in &mut samples {
        samples.0.sort_by(f64::total_cmp);
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples() {
        let samples = Samples((0..11).map(f64::from).collect());
        assert_eq!(
            [1, 5, 9].map(|tenths| samples.quantile(tenths)),
            [1.0, 5.0, 9.0]
        );
        assert!(Samples::default().median().is_nan());
    }
}
