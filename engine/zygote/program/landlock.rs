//! Landlock (landlock(7)): a second fence inside the view, and below level 3 the only one.

use alloc::format;

use crate::{
    protocol::{Bytes, Step},
    step::{At, Steps},
    sys::{self, Errno, OwnedFd},
};

// Accesses to files, and the ABI they came with.
const EXECUTE: u64 = 1;
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
const ABI_1: u64 = (1 << 13) - 1;
const REFER: u64 = 1 << 13;
const TRUNCATE: u64 = 1 << 14;
const IOCTL_DEV: u64 = 1 << 15;
/// What makes sense for something that is not a folder.
const OF_FILE: u64 = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV;
const READ: u64 = EXECUTE | READ_FILE | READ_DIR;

const TCP: u64 = 3;
const ABSTRACT_SOCKETS: u64 = 1;
const SIGNALS: u64 = 2;

/// What is known of Landlock here.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Landlock {
    pub(crate) abi: u32,
    /// It really refused what it was told to refuse.
    pub(crate) files: bool,
    pub(crate) scopes: bool,
}

/// A child that tries it out.
pub(crate) struct Probe {
    abi: u32,
    child: Option<i32>,
}

impl Probe {
    /// What it found.
    pub(crate) fn found(self) -> Landlock {
        let status = self.child.and_then(|child| sys::wait(child).ok());
        let seen = status.map_or(0, |status| status >> 8 & 0xff);
        Landlock { abi: self.abi, files: seen & 1 != 0, scopes: seen & 2 != 0 }
    }
}

fn all_files(abi: u32) -> u64 {
    let mut all = ABI_1;
    if abi >= 2 {
        all |= REFER;
    }
    if abi >= 3 {
        all |= TRUNCATE;
    }
    if abi >= 5 {
        all |= IOCTL_DEV;
    }
    all
}

impl Landlock {
    /// Tries it in a child: some kernels announce an ABI without doing all of it.
    pub(crate) fn probe() -> Probe {
        let abi = sys::landlock_abi();
        let child = if abi == 0 { None } else { sys::fork(0).ok() };
        if child == Some(0) {
            sys::exit(Self { abi, files: false, scopes: false }.try_out());
        }
        Probe { abi, child }
    }

    fn try_out(self) -> i32 {
        // A listener from before the fence is outside of it.
        let name = format!("\x01\0\0run-tool-probe-{}", sys::getpid());
        let listener = sys::socket(1, 1, 0).and_then(|socket| {
            sys::bind(&socket, name.as_bytes())?;
            sys::listen(&socket)?;
            Ok(socket)
        });
        let fenced = sys::no_new_privileges()
            .and_then(|()| Landlock { scopes: true, ..self }.ruleset_with(all_files(self.abi), false))
            .and_then(sys::landlock_restrict);
        if fenced.is_err() {
            return 0;
        }
        let files = sys::open(c"/").is_err_and(|errno| errno == Errno::ACCES);
        let scopes = self.abi >= 6
            && listener.is_ok()
            && sys::socket(1, 1, 0).and_then(|socket| sys::connect(&socket, name.as_bytes()))
                == Err(Errno::PERM);
        i32::from(files) | i32::from(scopes) << 1
    }

    fn ruleset_with(self, files: u64, no_tcp: bool) -> sys::Result<OwnedFd> {
        let network = if no_tcp && self.abi >= 4 { TCP } else { 0 };
        let scopes = if self.abi >= 6 && self.scopes { ABSTRACT_SOCKETS | SIGNALS } else { 0 };
        let known = match self.abi {
            ..4 => 1,
            4..6 => 2,
            6.. => 3,
        };
        sys::landlock_ruleset(files, network, scopes, known)
    }

    /// Whether it is there and refuses what it is told to refuse.
    pub(crate) fn is_usable(self) -> bool {
        self.abi > 0 && self.files
    }

    /// A ruleset that allows no file yet.
    pub(crate) fn ruleset(self, no_tcp: bool) -> Steps<OwnedFd> {
        self.ruleset_with(all_files(self.abi), no_tcp).at(Step::Landlock, b"")
    }

    /// Lets `readable` be read and executed, and `writable` also be written. `own_view`: these are paths in a view that nobody
    /// else changes. In the host's, a link where the engine saw none is not followed.
    pub(crate) fn allow(
        self,
        ruleset: &OwnedFd,
        readable: &[Bytes],
        writable: &[Bytes],
        own_view: bool,
    ) -> Steps<()> {
        let open = if own_view { sys::open_path } else { sys::open_path_strictly };
        let all = all_files(self.abi);
        let allow = |place: &Bytes, access: u64| {
            let path = sys::cstring(&place.0).at(Step::Landlock, &place.0)?;
            let fd = open(&path).at(Step::Landlock, &place.0)?;
            let is_folder = sys::file_info(&fd).at(Step::Landlock, &place.0)?.is_folder;
            let access = if is_folder { access } else { access & OF_FILE };
            sys::landlock_allow(ruleset, &fd, access & all).at(Step::Landlock, &place.0)
        };
        for place in readable {
            allow(place, READ)?;
        }
        for place in writable {
            allow(place, all)?;
        }
        Ok(())
    }
}
