//! The system calls that no tool gets. Installed once, in the zygote; every sandbox inherits it for nothing.
//!
//! What needs a capability is refused by the kernel already, because a tool has none; what is listed here is what an
//! unprivileged process may do and has no business doing, or what is a known way to attack a kernel. `mount`, `setns`,
//! `unshare` and `clone` are not listed: the sandbox's own first process needs them, and they are of no use without
//! capabilities and with `user.max_user_namespaces = 0`.

use alloc::{vec, vec::Vec};

use crate::sys::{self, Instruction};

const PERM: u32 = 1;
const NOSYS: u32 = 38;
const AFNOSUPPORT: u32 = 97;
const PROTONOSUPPORT: u32 = 93;

/// The number on x86-64 and on aarch64 (`None`: there is no such call), the error, and why.
const REFUSED: &[(Option<u32>, Option<u32>, u32)] = &[
    // io_uring: does what other calls do behind this filter's back, and a steady source of kernel bugs. ENOSYS, so that
    // programs fall back to other calls.
    (Some(425), Some(425), NOSYS), // io_uring_setup
    (Some(426), Some(426), NOSYS), // io_uring_enter
    (Some(427), Some(427), NOSYS), // io_uring_register
    // Looking into and changing other processes.
    (Some(101), Some(117), PERM), // ptrace
    (Some(310), Some(270), PERM), // process_vm_readv
    (Some(311), Some(271), PERM), // process_vm_writev
    (Some(312), Some(272), PERM), // kcmp: tells kernel addresses apart
    (Some(438), Some(438), PERM), // pidfd_getfd: takes descriptors out of others
    // The kernel's key rings belong to the user on the host, not to the call.
    (Some(248), Some(217), PERM), // add_key
    (Some(249), Some(218), PERM), // request_key
    (Some(250), Some(219), PERM), // keyctl
    // Programs inside the kernel, and what makes races in it winnable.
    (Some(321), Some(280), PERM), // bpf
    (Some(298), Some(241), PERM), // perf_event_open
    (Some(323), Some(282), PERM), // userfaultfd
    // Reaches files by handle, around every path rule.
    (Some(304), Some(265), PERM), // open_by_handle_at
    (Some(300), Some(262), PERM), // fanotify_init: tells of other processes' files
    // The machine: refused without a capability anyway, listed so that no bug in those checks matters.
    (Some(246), Some(104), PERM), // kexec_load
    (Some(320), Some(294), PERM), // kexec_file_load
    (Some(175), Some(105), PERM), // init_module
    (Some(313), Some(273), PERM), // finit_module
    (Some(176), Some(106), PERM), // delete_module
    (Some(169), Some(142), PERM), // reboot
    (Some(167), Some(224), PERM), // swapon
    (Some(168), Some(225), PERM), // swapoff
    (Some(163), Some(89), PERM),  // acct
    (Some(179), Some(60), PERM),  // quotactl
    (Some(443), Some(443), PERM), // quotactl_fd
    (Some(103), Some(116), PERM), // syslog: the kernel's log
    (Some(164), Some(170), PERM), // settimeofday
    (Some(227), Some(112), PERM), // clock_settime
    (Some(172), None, PERM),      // iopl
    (Some(173), None, PERM),      // ioperm
    (Some(154), None, PERM),      // modify_ldt
    (Some(180), Some(42), NOSYS), // nfsservctl
    (Some(212), Some(18), NOSYS), // lookup_dcookie
    (Some(134), None, NOSYS),     // uselib
    (Some(136), None, NOSYS),     // ustat
    (Some(139), None, NOSYS),     // sysfs
    (Some(156), None, NOSYS),     // _sysctl
    (Some(153), Some(58), PERM),  // vhangup
    (Some(279), Some(239), PERM), // move_pages: tells physical layout of others
    (Some(256), Some(238), PERM), // migrate_pages
    // Changes how other processes' memory is kept. ENOSYS: allocators try it on themselves and fall back to madvise.
    (Some(440), Some(440), NOSYS), // process_madvise
    // Takes the mode of a new file by pointer, where no filter can look at it (see `SET_ID`). ENOSYS: it is new enough that
    // whoever uses it can do without.
    (Some(437), Some(437), NOSYS), // openat2
];

/// The numbers of a call on x86-64 and on aarch64.
type Numbers = (Option<u32>, Option<u32>);

/// Set-id bits, by which a program runs as its owner. In here they have no effect, but what a tool leaves in a writable
/// folder is its caller's on the host, and there everybody who may execute it would be the caller. Where the call takes the
/// flags of open(2) and where it takes the mode, by number of the argument; the mode means nothing when nothing is made.
const SET_ID: &[(Numbers, Option<usize>, usize)] = &[
    ((Some(90), None), None, 1),         // chmod
    ((Some(91), Some(52)), None, 1),     // fchmod
    ((Some(268), Some(53)), None, 2),    // fchmodat
    ((Some(452), Some(452)), None, 2),   // fchmodat2
    ((Some(85), None), None, 1),         // creat
    ((Some(2), None), Some(1), 2),       // open
    ((Some(257), Some(56)), Some(2), 3), // openat
    ((Some(133), None), None, 1),        // mknod
    ((Some(259), Some(33)), None, 2),    // mknodat
];

/// Limits of another process of the same user, for which no capability is needed: process 1 watches over the call, and
/// without time, descriptors or memory could not. (Its priority and its processors it keeps because it has capabilities that
/// the tool has not; see `cap_safe_nice` in the kernel.)
const PRLIMIT: (u32, u32) = (302, 261);

/// (x86-64, aarch64)
const PERSONALITY: (u32, u32) = (135, 92);

const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const EQUAL: u16 = 0x15;
const AT_LEAST: u16 = 0x35;
const ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0x8000_0000;
const ERRNO: u32 = 0x0005_0000;

// Offsets in struct seccomp_data; low halves of the arguments (both architectures are little-endian).
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARG0: u32 = 16;
const ARG1: u32 = 24;
const ARG2: u32 = 32;

/// The low half of an argument.
const fn argument(index: usize) -> u32 {
    ARG0 + 8 * index as u32
}

#[cfg(target_arch = "x86_64")]
const THIS_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const THIS_ARCH: u32 = 0xc000_00b7;

const fn instruction(code: u16, operand: u32, then: u8, otherwise: u8) -> Instruction {
    Instruction { code, then, otherwise, operand }
}

/// What happens to a call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rule {
    Refuse(u32),
    Ioctl,
    Socket,
    SetId { flags: Option<usize>, mode: usize },
    Prlimit,
    Personality,
}

/// The number here of what has these on x86-64 and on aarch64.
fn here<T>(x86_64: T, aarch64: T) -> T {
    if cfg!(target_arch = "x86_64") { x86_64 } else { aarch64 }
}

fn rules() -> Vec<(u32, Rule)> {
    let mut rules: Vec<_> = REFUSED
        .iter()
        .filter_map(|&(x86_64, aarch64, errno)| Some((here(x86_64, aarch64)?, Rule::Refuse(errno))))
        .collect();
    rules.push((sys::nr::IOCTL as u32, Rule::Ioctl));
    rules.push((sys::nr::SOCKET as u32, Rule::Socket));
    rules.extend(SET_ID.iter().filter_map(|&((x86_64, aarch64), flags, mode)| {
        Some((here(x86_64, aarch64)?, Rule::SetId { flags, mode }))
    }));
    rules.push((here(PRLIMIT.0, PRLIMIT.1), Rule::Prlimit));
    rules.push((here(PERSONALITY.0, PERSONALITY.1), Rule::Personality));
    rules.sort_by_key(|(number, _)| *number);
    rules
}

/// The filter: architecture first, then a binary search for the number.
pub(crate) fn filter() -> Vec<Instruction> {
    let mut program = vec![
        instruction(LOAD, ARCH, 0, 0),
        instruction(EQUAL, THIS_ARCH, 1, 0),
        // Another architecture numbers its calls otherwise (int 0x80 on x86-64): this filter would look at the wrong one.
        instruction(RETURN, KILL, 0, 0),
        instruction(LOAD, NUMBER, 0, 0),
    ];
    if cfg!(target_arch = "x86_64") {
        // So does x32, which looks like x86-64 but for this bit. -1 is what a tracer puts for "no call".
        const X32: u32 = 0x4000_0000;
        program.extend([instruction(AT_LEAST, X32, 0, 1), instruction(RETURN, KILL, 0, 0)]);
    }
    program.extend(search(&rules()));
    program
}

fn search(rules: &[(u32, Rule)]) -> Vec<Instruction> {
    match rules {
        [] => vec![instruction(RETURN, ALLOW, 0, 0)],
        [(number, rule)] => {
            let verdict = match rule {
                Rule::Refuse(errno) => vec![instruction(RETURN, ERRNO | errno, 0, 0)],
                Rule::Ioctl => ioctl(),
                Rule::Socket => socket(),
                Rule::SetId { flags, mode } => set_id(*flags, *mode),
                Rule::Prlimit => prlimit(),
                Rule::Personality => personality(),
            };
            let mut code = vec![instruction(EQUAL, *number, 1, 0), instruction(RETURN, ALLOW, 0, 0)];
            code.extend(verdict);
            code
        }
        _ => {
            let (low, high) = rules.split_at(rules.len() / 2);
            let (low, high_at) = (search(low), high[0].0);
            // The conditional jumps reach 255 instructions, this one any number.
            let mut code =
                vec![instruction(AT_LEAST, high_at, 0, 1), instruction(JUMP, low.len() as u32, 0, 0)];
            code.extend(low);
            code.extend(search(high));
            code
        }
    }
}

/// Putting characters into a terminal's input, as if they had been typed there (CVE-2017-5226).
fn ioctl() -> Vec<Instruction> {
    const TIOCSTI: u32 = 0x5412;
    const TIOCLINUX: u32 = 0x541c;
    vec![
        instruction(LOAD, ARG1, 0, 0),
        instruction(EQUAL, TIOCSTI, 2, 0),
        instruction(EQUAL, TIOCLINUX, 1, 0),
        instruction(RETURN, ALLOW, 0, 0),
        instruction(RETURN, ERRNO | PERM, 0, 0),
    ]
}

/// Sockets by allowed families. Others are rarely used, and so rarely looked at by those who mend kernels; vsock speaks to
/// the machine that hosts this one; of netlink only routing information is needed (getaddrinfo(3) asks for it).
fn socket() -> Vec<Instruction> {
    const UNIX: u32 = 1;
    const INET: u32 = 2;
    const INET6: u32 = 10;
    const NETLINK: u32 = 16;
    vec![
        instruction(LOAD, ARG0, 0, 0),
        instruction(EQUAL, UNIX, 7, 0),
        instruction(EQUAL, INET, 6, 0),
        instruction(EQUAL, INET6, 5, 0),
        instruction(EQUAL, NETLINK, 1, 0),
        instruction(RETURN, ERRNO | AFNOSUPPORT, 0, 0),
        instruction(LOAD, ARG2, 0, 0),
        instruction(EQUAL, 0, 1, 0),
        instruction(RETURN, ERRNO | PROTONOSUPPORT, 0, 0),
        instruction(RETURN, ALLOW, 0, 0),
    ]
}

/// See [`SET_ID`].
fn set_id(flags: Option<usize>, mode: usize) -> Vec<Instruction> {
    const CREAT: u32 = 0o100;
    const TMPFILE: u32 = 0o20_000_000;
    const SET_ID_BITS: u32 = 0o6000;
    let mut code = Vec::new();
    if let Some(flags) = flags {
        code.extend([
            instruction(LOAD, argument(flags), 0, 0),
            instruction(ANY_BIT, CREAT | TMPFILE, 1, 0),
            instruction(RETURN, ALLOW, 0, 0),
        ]);
    }
    code.extend([
        instruction(LOAD, argument(mode), 0, 0),
        instruction(ANY_BIT, SET_ID_BITS, 1, 0),
        instruction(RETURN, ALLOW, 0, 0),
        instruction(RETURN, ERRNO | PERM, 0, 0),
    ]);
    code
}

/// See [`PRLIMIT`].
fn prlimit() -> Vec<Instruction> {
    vec![
        instruction(LOAD, ARG0, 0, 0),
        instruction(EQUAL, 1, 1, 0),
        instruction(RETURN, ALLOW, 0, 0),
        instruction(RETURN, ERRNO | PERM, 0, 0),
    ]
}

/// Nothing but what every process is, and the question what it is: others make all that is read executable, or all
/// addresses known, and run code of the kernel that hardly anybody runs.
fn personality() -> Vec<Instruction> {
    vec![
        instruction(LOAD, ARG0, 0, 0),
        instruction(EQUAL, 0, 2, 0),
        instruction(EQUAL, u32::MAX, 1, 0),
        instruction(RETURN, ERRNO | PERM, 0, 0),
        instruction(RETURN, ALLOW, 0, 0),
    ]
}

/// What is refused below level 3, beside the rest. There, other processes of the user can be seen, the first process of the
/// sandbox and the engine among them: limits may be set for oneself only. And `no_network` refuses all sockets by which
/// somebody can be reached: there is no network namespace, and no rule of Landlock holds for a socket that has a path
/// (docker's). Pairs of sockets (socketpair(2)) reach nobody.
pub(crate) fn in_place_filter(no_network: bool) -> Vec<Instruction> {
    const NETLINK: u32 = 16;
    const ACCES: u32 = 13;
    let mut program = vec![
        instruction(LOAD, NUMBER, 0, 0),
        instruction(EQUAL, here(PRLIMIT.0, PRLIMIT.1), 0, 4),
        instruction(LOAD, ARG0, 0, 0),
        instruction(EQUAL, 0, 1, 0),
        instruction(RETURN, ERRNO | PERM, 0, 0),
        instruction(RETURN, ALLOW, 0, 0),
    ];
    if no_network {
        program.extend([
            instruction(EQUAL, sys::nr::SOCKET as u32, 1, 0),
            instruction(RETURN, ALLOW, 0, 0),
            instruction(LOAD, ARG0, 0, 0),
            instruction(EQUAL, NETLINK, 1, 0),
            instruction(RETURN, ERRNO | ACCES, 0, 0),
        ]);
    }
    program.push(instruction(RETURN, ALLOW, 0, 0));
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine for filters: enough of BPF for ours.
    fn verdict(program: &[Instruction], arch: u32, number: u32, args: [u32; 4]) -> u32 {
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let Instruction { code, then, otherwise, operand } = program[at];
            at += 1;
            let jump = |condition| usize::from(if condition { then } else { otherwise });
            match code {
                LOAD => {
                    accumulator = match operand {
                        NUMBER => number,
                        ARCH => arch,
                        argument if argument >= ARG0 => args[(argument as usize - 16) / 8],
                        _ => panic!("no such field"),
                    }
                }
                JUMP => at += operand as usize,
                EQUAL => at += jump(accumulator == operand),
                AT_LEAST => at += jump(accumulator >= operand),
                ANY_BIT => at += jump(accumulator & operand != 0),
                RETURN => return operand,
                _ => panic!("no such instruction"),
            }
        }
    }

    #[test]
    fn each_call_gets_its_verdict_and_all_others_pass() {
        let (program, rules) = (filter(), rules());
        assert!(program.len() < 4096, "the kernel's bound");
        for number in 0..600 {
            let expected = match rules.iter().find(|(refused, _)| *refused == number) {
                Some((_, Rule::Refuse(errno))) => ERRNO | errno,
                Some((_, Rule::Socket)) => ERRNO | AFNOSUPPORT,
                Some(_) | None => ALLOW,
            };
            assert_eq!(verdict(&program, THIS_ARCH, number, [0; 4]), expected, "{number}");
        }
        assert_eq!(verdict(&program, 0x4000_0003, 1, [0; 4]), KILL);
        if cfg!(target_arch = "x86_64") {
            assert_eq!(verdict(&program, THIS_ARCH, 0x4000_0001, [0; 4]), KILL);
        }
    }

    #[test]
    fn arguments_are_looked_at_where_they_matter() {
        let program = filter();
        let ioctl = |request| verdict(&program, THIS_ARCH, sys::nr::IOCTL as u32, [0, request, 0, 0]);
        assert_eq!((ioctl(0x5401), ioctl(0x5412)), (ALLOW, ERRNO | PERM));
        let socket =
            |family, protocol| verdict(&program, THIS_ARCH, sys::nr::SOCKET as u32, [family, 1, protocol, 0]);
        for family in [1, 2, 10, 16] {
            assert_eq!(socket(family, 0), ALLOW, "{family}");
        }
        assert_eq!(socket(2, 6), ALLOW);
        assert_eq!(socket(16, 15), ERRNO | PROTONOSUPPORT);
        assert_eq!(socket(40, 0), ERRNO | AFNOSUPPORT);
    }

    #[test]
    fn without_namespaces_more_is_refused() {
        for no_network in [false, true] {
            let program = in_place_filter(no_network);
            let call = |number: u32, first| verdict(&program, THIS_ARCH, number, [first, 1, 0, 0]);
            let socket = |family| call(sys::nr::SOCKET as u32, family);
            let reaching = if no_network { ERRNO | 13 } else { ALLOW };
            assert_eq!((socket(1), socket(2), socket(10)), (reaching, reaching, reaching));
            assert_eq!(socket(16), ALLOW);
            let limit = |pid| call(here(PRLIMIT.0, PRLIMIT.1), pid);
            assert_eq!((limit(0), limit(1), limit(4711)), (ALLOW, ERRNO | PERM, ERRNO | PERM));
            assert_eq!(call(sys::nr::EXECVE as u32, 9), ALLOW);
        }
    }

    #[test]
    fn set_id_bits_are_refused_wherever_a_file_gets_a_mode() {
        let program = filter();
        let call = |x86_64: Option<u32>, aarch64: Option<u32>, args| {
            here(x86_64, aarch64).map(|number| verdict(&program, THIS_ARCH, number, args))
        };
        const CREAT: u32 = 0o101;
        for (mode, expected) in
            [(0o755, ALLOW), (0o4755, ERRNO | PERM), (0o2600, ERRNO | PERM), (0o1777, ALLOW)]
        {
            for found in [
                call(Some(90), None, [7, mode, 0, 0]),
                call(Some(91), Some(52), [7, mode, 0, 0]),
                call(Some(268), Some(53), [7, 7, mode, 0]),
                call(Some(452), Some(452), [7, 7, mode, 0]),
                call(Some(85), None, [7, mode, 0, 0]),
                call(Some(2), None, [7, CREAT, mode, 0]),
                call(Some(257), Some(56), [7, 7, CREAT, mode]),
                call(Some(257), Some(56), [7, 7, 0o20_200_001, mode]),
                call(Some(133), None, [7, mode | 0o100_000, 0, 0]),
                call(Some(259), Some(33), [7, 7, mode | 0o100_000, 0]),
            ] {
                assert!(found.is_none_or(|found| found == expected), "{mode:o}: {found:?}");
            }
        }
        // What is not made gets no mode, whatever lies in that register.
        assert_eq!(call(Some(257), Some(56), [7, 7, 0, 0o4755]), Some(ALLOW));
    }

    #[test]
    fn the_first_process_keeps_its_limits_and_nobody_becomes_another_personality() {
        let program = filter();
        let call =
            |(x86_64, aarch64): (u32, u32), args| verdict(&program, THIS_ARCH, here(x86_64, aarch64), args);
        let limit = |pid| call(PRLIMIT, [pid, 0, 0, 0]);
        assert_eq!((limit(0), limit(1), limit(2)), (ALLOW, ERRNO | PERM, ALLOW));
        let become_other = |persona| call(PERSONALITY, [persona, 0, 0, 0]);
        assert_eq!((become_other(0), become_other(u32::MAX)), (ALLOW, ALLOW));
        assert_eq!((become_other(8), become_other(0x0040_0000)), (ERRNO | PERM, ERRNO | PERM));
    }
}
