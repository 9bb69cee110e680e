//! The limits that a cgroup can enforce, as they are written.

use std::{io, path::Path};

use super::CgroupError;
use crate::policy::ResourceLimits;

/// The time over which a share of processors is dealt out, in microseconds: the kernel's own default.
pub(super) const PERIOD: u64 = 100_000;

/// What is written into a cgroup. The default is what a new one has: no limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Limits {
    /// Bytes.
    pub(super) memory: Option<u64>,
    pub(super) pids: Option<u32>,
    /// Microseconds on a processor in each [`PERIOD`].
    pub(super) quota: Option<u64>,
}

impl Limits {
    pub(super) fn new(limits: &ResourceLimits) -> Result<Self, CgroupError> {
        // Less than a millisecond is refused by the kernel.
        const SMALLEST: f64 = 1000.0;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is between 1000 and 2⁵³"
        )]
        let quota = |cpus: f64| -> Result<u64, CgroupError> {
            if !(cpus.is_finite() && cpus > 0.0) {
                return Err(CgroupError::new(
                    format!("limiting it to {cpus} processors"),
                    Path::new(""),
                    io::ErrorKind::InvalidInput.into(),
                ));
            }
            #[expect(clippy::cast_precision_loss, reason = "it is small")]
            let micros = cpus * PERIOD as f64;
            Ok(micros.clamp(SMALLEST, 1e12) as u64)
        };
        Ok(Self { memory: limits.memory, pids: limits.pids, quota: limits.cpus.map(quota).transpose()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_processors_becomes_microseconds() {
        let quota = |cpus| {
            Limits::new(&ResourceLimits { cpus: Some(cpus), ..ResourceLimits::default() }).map(|l| l.quota)
        };
        assert_eq!(quota(1.5).unwrap(), Some(150_000));
        assert_eq!(quota(0.000_1).unwrap(), Some(1000), "the least that the kernel takes");
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(quota(bad).is_err(), "{bad}");
        }
        assert_eq!(Limits::new(&ResourceLimits::default()).unwrap(), Limits::default());
    }
}
