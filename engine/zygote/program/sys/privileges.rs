//! What a process gives up: its user, its capabilities, its access to files (Landlock) and to system calls (seccomp).

use super::*;

pub(crate) fn become_user(uid: u32, gid: u32) -> Result<()> {
    call!(nr::SETGROUPS, 0, 0)?;
    call!(nr::SETRESGID, gid, gid, gid)?;
    call!(nr::SETRESUID, uid, uid, uid).map(drop)
}

fn prctl(option: c_long, arg: c_long) -> Result<()> {
    call!(nr::PRCTL, option, arg, 0, 0, 0).map(drop)
}

/// SIGKILL when the parent dies. Forgotten when the user changes.
pub(crate) fn die_with_parent() -> Result<()> {
    prctl(1, SIGKILL.into())
}

pub(crate) fn set_dumpable(dumpable: bool) -> Result<()> {
    prctl(4, dumpable.into())
}

pub(crate) fn set_name(name: &CStr) {
    // Cosmetics.
    let _ = call!(nr::PRCTL, 15, name.as_ptr(), 0, 0, 0);
}

pub(crate) fn no_new_privileges() -> Result<()> {
    prctl(38, 1)
}

/// Orphaned descendants become our children.
pub(crate) fn adopt_orphans() -> Result<()> {
    prctl(36, 1)
}

/// Empties the bounding set: no program executed from here on can gain a capability.
pub(crate) fn drop_bounding_set() -> Result<()> {
    for capability in 0..64 {
        match prctl(24, capability) {
            // Beyond the last that this kernel knows.
            Err(Errno::INVAL) => break,
            done => done?,
        }
    }
    Ok(())
}

/// Gives up all capabilities.
pub(crate) fn drop_capabilities() -> Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    let none = [0u32; 6];
    call!(nr::CAPSET, header.as_ptr(), none.as_ptr()).map(drop)
}

pub(crate) fn set_limit(resource: u32, soft: u64, hard: u64) -> Result<()> {
    let limit = [soft, hard];
    call!(nr::PRLIMIT64, 0, resource, limit.as_ptr(), 0).map(drop)
}

/// Its ABI; 0: there is none.
pub(crate) fn landlock_abi() -> u32 {
    call!(new::LANDLOCK_CREATE_RULESET, 0, 0, 1).map_or(0, |abi| abi as u32)
}

/// A ruleset that refuses these accesses to files and to TCP, and bounds these scopes. `known`: how many of the three
/// words this kernel knows.
pub(crate) fn landlock_ruleset(files: u64, network: u64, scopes: u64, known: usize) -> Result<OwnedFd> {
    let attr = [files, network, scopes];
    call!(new::LANDLOCK_CREATE_RULESET, attr.as_ptr(), 8 * known, 0).map(owned)
}

/// Allows these accesses at and below `place`.
pub(crate) fn landlock_allow(ruleset: impl AsFd, place: impl AsFd, access: u64) -> Result<()> {
    const PATH_BENEATH: c_long = 1;
    #[repr(C, packed)]
    struct PathBeneath {
        access: u64,
        fd: c_int,
    }
    let rule = PathBeneath { access, fd: place.as_fd().as_raw_fd() };
    call!(new::LANDLOCK_ADD_RULE, ruleset.as_fd().as_raw_fd(), PATH_BENEATH, &raw const rule, 0).map(drop)
}

pub(crate) fn landlock_restrict(ruleset: impl AsFd) -> Result<()> {
    call!(new::LANDLOCK_RESTRICT_SELF, ruleset.as_fd().as_raw_fd(), 0).map(drop)
}

/// One instruction of a filter (bpf_filter): code, jump if true, jump if false, operand.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u16,
    pub(crate) then: u8,
    pub(crate) otherwise: u8,
    pub(crate) operand: u32,
}

/// Installs a system call filter on this thread and all its descendants (seccomp(2)).
pub(crate) fn install_filter(program: &[Instruction]) -> Result<()> {
    #[repr(C)]
    struct Program {
        length: u16,
        instructions: *const Instruction,
    }
    const SET_MODE_FILTER: c_long = 1;
    let length = u16::try_from(program.len()).map_err(|_| Errno::INVAL)?;
    let program = Program { length, instructions: program.as_ptr() };
    call!(nr::SECCOMP, SET_MODE_FILTER, 0, &raw const program).map(drop)
}
