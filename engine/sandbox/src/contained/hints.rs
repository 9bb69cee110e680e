//! What to do where this machine does not let us do something: chosen by what failed, how, and what the machine is like.

use std::{fs, path::Path};

use rustix::io::Errno;
use tool_zygote::protocol::{Failure, Step};

/// What the machine is like, as far as it matters to what can be done about a refusal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// The kernel's release, and the first two numbers of it.
    pub(super) release: String,
    pub(super) kernel: (u32, u32),
    pub(super) container: Option<Container>,
    /// Whether somebody filters our own system calls (seccomp(2)).
    pub(super) filtered: bool,
    /// Ubuntu's `kernel.apparmor_restrict_unprivileged_userns`.
    pub(super) apparmor_userns: bool,
    /// Debian's `kernel.unprivileged_userns_clone` is there, and 0.
    pub(super) userns_clone_off: bool,
    /// `user.max_user_namespaces`.
    pub(super) max_user_namespaces: Option<u64>,
    /// Our root is not that of a mount: the kernel then lets nobody make user namespaces.
    pub(super) in_chroot: bool,
    /// The security modules that run, where that can be seen.
    pub(super) modules: Option<String>,
    /// Our own program.
    pub(super) program: String,
}

/// Who made the container that we are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Container {
    Docker,
    Podman,
    Kubernetes,
}

impl Facts {
    /// Those of this machine.
    pub(super) fn gather() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let is = |path: &str, value: &str| read(path).trim() == value;
        let there = |path: &str| Path::new(path).exists();
        let mounts = read("/proc/self/mountinfo");
        let release = read("/proc/sys/kernel/osrelease").trim().to_owned();
        let is_root = |line: &str| line.split(' ').nth(4) == Some("/");
        Self {
            kernel: kernel(&release),
            release,
            // Whoever runs in a pod sets up the pod, whatever runs that.
            container: if there("/var/run/secrets/kubernetes.io") {
                Some(Container::Kubernetes)
            } else if there("/run/.containerenv") {
                Some(Container::Podman)
            } else {
                there("/.dockerenv").then_some(Container::Docker)
            },
            filtered: read("/proc/self/status").lines().any(|line| line == "Seccomp:\t2"),
            apparmor_userns: is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
            userns_clone_off: is("/proc/sys/kernel/unprivileged_userns_clone", "0"),
            max_user_namespaces: read("/proc/sys/user/max_user_namespaces").trim().parse().ok(),
            in_chroot: !mounts.is_empty() && !mounts.lines().any(is_root),
            modules: fs::read_to_string("/sys/kernel/security/lsm").ok(),
            program: fs::read_link("/proc/self/exe")
                .map_or_else(|_| "…".into(), |path| path.display().to_string()),
        }
    }

    /// What lets a container's programs have namespaces, mounts and a /proc.
    fn open_container(&self) -> Option<String> {
        let hint = match self.container? {
            Container::Docker => {
                "Docker's default profiles refuse namespaces (seccomp), mounts (AppArmor) and the settings in /proc (its \
                 masked paths): start the container with `--security-opt seccomp=unconfined --security-opt \
                 apparmor=unconfined --security-opt systempaths=unconfined`, or `--privileged`"
            }
            Container::Podman => {
                "Podman's defaults refuse mounts (SELinux) and the settings in /proc (its masked paths): start the \
                 container with `--security-opt label=disable --security-opt unmask=ALL --security-opt \
                 seccomp=unconfined`, or `--privileged`"
            }
            Container::Kubernetes => {
                "the pod's profiles refuse namespaces and mounts: set `hostUsers: false` in the pod, and in the \
                 container's `securityContext` `procMount: Unmasked`, `seccompProfile: {type: Unconfined}` and \
                 `appArmorProfile: {type: Unconfined}`"
            }
        };
        let and_host = if self.apparmor_userns {
            "; and on its host, which is Ubuntu's, `sysctl kernel.apparmor_restrict_unprivileged_userns=0`: without a \
             profile of the container's that restriction applies"
        } else {
            ""
        };
        Some(format!("{hint}{and_host}"))
    }

    fn open_ubuntu(&self) -> String {
        format!(
            "Ubuntu restricts user namespaces: let this program have them by a profile (`printf 'abi <abi/4.0>,\\nprofile \
             run-tool \"{}\" flags=(unconfined) {{ userns, }}\\n' | sudo tee /etc/apparmor.d/run-tool && sudo \
             apparmor_parser -r /etc/apparmor.d/run-tool`), or all programs (`sudo sysctl \
             kernel.apparmor_restrict_unprivileged_userns=0`)",
            self.program
        )
    }
}

/// The first two numbers of a kernel's release.
fn kernel(release: &str) -> (u32, u32) {
    let mut numbers =
        release.trim().split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// What to do about a zygote that could not set itself up.
pub(super) fn setup(failure: &Failure, facts: &Facts) -> String {
    let errno = Errno::from_raw_os_error(failure.errno);
    match failure.step {
        Step::User => {
            "the user does not exist in this container: name one that does (see /proc/self/uid_map), with \
                       `--user` or `Sandbox::builder().user(…)`"
                .into()
        }
        Step::Fork => {
            "the user's or the machine's limit of processes or memory is reached; run fewer programs at once"
                .into()
        }
        Step::Namespaces => namespaces(errno, facts),
        Step::UserMap
        | Step::NestedNamespaces
        | Step::Propagation
        | Step::View
        | Step::Clone
        | Step::Attributes
        | Step::Attach
        | Step::Enter
        | Step::Tmpfs
        | Step::Network => mounts(errno, facts),
        Step::Seccomp => "this kernel cannot filter system calls; use one with CONFIG_SECCOMP_FILTER".into(),
        Step::Message => {
            "name a zygote's program of this very version (`Sandbox::builder().zygote(…)`)".into()
        }
        _ => "use Linux 5.12 or newer, outside of whatever emulates it".into(),
    }
}

/// The namespaces themselves were refused.
fn namespaces(errno: Errno, facts: &Facts) -> String {
    match errno {
        // Ours, or those of a namespace around us: a limit counts, not a permission.
        Errno::NOSPC | Errno::USERS => format!(
            "raise `sysctl user.max_user_namespaces`, which is {} here{}",
            facts.max_user_namespaces.map_or_else(|| "unknown".into(), |most| most.to_string()),
            if facts.container.is_some() { ", on the container's host" } else { "" }
        ),
        Errno::INVAL => "this kernel is built without user namespaces: use one with CONFIG_USER_NS".into(),
        _ if facts.filtered && facts.container.is_some() => facts.open_container().unwrap_or_default(),
        _ if facts.userns_clone_off => {
            "this kernel lets root alone have user namespaces: `sudo sysctl kernel.unprivileged_userns_clone=1`".into()
        }
        _ if facts.in_chroot => {
            "nobody can make user namespaces in a chroot: make the folder a mount and `pivot_root` there, or use a container"
                .into()
        }
        _ if facts.apparmor_userns && facts.container.is_none() => facts.open_ubuntu(),
        _ => facts.open_container().unwrap_or_else(|| {
            if facts.filtered {
                "a filter of system calls that we were started under refuses namespaces: allow them there (systemd: \
                 `RestrictNamespaces=`, `SystemCallFilter=`), or accept a lower level by name (`--level 1`)"
                    .into()
            } else {
                "a security module refuses namespaces: allow them, or accept a lower level by name (`--level 1`)".into()
            }
        }),
    }
}

/// There are namespaces, but what has to be done in them was refused.
fn mounts(errno: Errno, facts: &Facts) -> String {
    match errno {
        Errno::NOSYS | Errno::INVAL if facts.kernel < (5, 12) => {
            "use Linux 5.12 or newer, which has the system calls for mounts that are needed".into()
        }
        Errno::NOMEM | Errno::MFILE | Errno::NFILE | Errno::NOSPC => {
            "the machine's memory, or a limit of mounts or open files, is used up (`fs.mount-max`, `ulimit -n`); raise it"
                .into()
        }
        _ if facts.container.is_some() => facts.open_container().unwrap_or_default(),
        // The namespace was made, and nothing may be done in it.
        _ if facts.apparmor_userns => facts.open_ubuntu(),
        Errno::ROFS => "/proc/sys is mounted read-only: have it writable (systemd: `ProtectKernelTunables=no`)".into(),
        _ => "a security module refuses mounts in user namespaces: allow them, or accept a lower level by name (`--level 1`)"
            .into(),
    }
}

/// What to do where there is no Landlock (landlock(7)), or one that does not do what it is told.
pub(super) fn landlock(abi: u32, facts: &Facts) -> String {
    if abi > 0 {
        return "something between us and the kernel does not do it: use another container runtime or kernel"
            .into();
    }
    match &facts.modules {
        _ if facts.kernel < (5, 13) => "use Linux 5.13 or newer".into(),
        Some(modules) if !modules.split(',').any(|module| module.trim() == "landlock") => format!(
            "it is switched off: boot with `lsm=landlock,{}`, or use a kernel with CONFIG_SECURITY_LANDLOCK",
            modules.trim()
        ),
        // It runs, or it cannot be seen whether it does.
        _ if facts.filtered => match facts.container {
            Some(_) => "the container's filter of system calls does not know it: update the container runtime, or start the \
                        container with `--security-opt seccomp=unconfined`"
                .into(),
            None => "a filter of system calls that we were started under refuses it: allow `landlock_create_ruleset`, \
                     `landlock_add_rule` and `landlock_restrict_self` there"
                .into(),
        },
        _ => "use a kernel with CONFIG_SECURITY_LANDLOCK, and `landlock` in its `lsm=` parameter".into(),
    }
}

/// What to do for a /proc in a sandbox.
pub(super) fn proc(facts: &Facts) -> String {
    let option = match facts.container {
        Some(Container::Docker) => "start the container with `--security-opt systempaths=unconfined`",
        Some(Container::Podman) => "start the container with `--security-opt unmask=ALL`",
        Some(Container::Kubernetes) => {
            "set `procMount: Unmasked` in the container's `securityContext`, and `hostUsers: false` in the pod"
        }
        None => "see that no other mount covers a part of /proc (`grep ' /proc' /proc/self/mountinfo`)",
    };
    format!("the kernel allows no new /proc where the one around it has masked parts: {option}")
}

#[cfg(test)]
mod tests {
    use tool_zygote::protocol::Bytes;

    use super::*;

    fn facts() -> Facts {
        Facts {
            kernel: (6, 8),
            max_user_namespaces: Some(62_106),
            program: "/usr/bin/mine".into(),
            ..Facts::default()
        }
    }

    fn ubuntu() -> Facts {
        Facts { apparmor_userns: true, ..facts() }
    }

    fn inside(container: Container) -> Facts {
        Facts { container: Some(container), filtered: true, ..facts() }
    }

    fn said(step: Step, errno: Errno, facts: &Facts) -> String {
        setup(&Failure { step, subject: Bytes(Vec::new()), errno: errno.raw_os_error() }, facts)
    }

    #[test]
    fn ubuntu_is_told_of_a_profile_for_this_program() {
        // Refused at once where a profile denies it; otherwise the namespace is made, and good for nothing.
        for (step, errno) in [
            (Step::Namespaces, Errno::PERM),
            (Step::Namespaces, Errno::ACCESS),
            (Step::UserMap, Errno::PERM),
            (Step::Propagation, Errno::ACCESS),
        ] {
            let hint = said(step.clone(), errno, &ubuntu());
            assert!(hint.contains("\"/usr/bin/mine\" flags=(unconfined) { userns, }"), "{step:?}: {hint}");
            assert!(hint.contains("apparmor_restrict_unprivileged_userns=0"), "{step:?}: {hint}");
        }
    }

    #[test]
    fn a_limit_is_told_as_one_whatever_else_is_restricted() {
        for facts in [ubuntu(), inside(Container::Docker), Facts { max_user_namespaces: Some(0), ..facts() }]
        {
            let hint = said(Step::Namespaces, Errno::NOSPC, &facts);
            let most = facts.max_user_namespaces.unwrap();
            assert!(hint.contains(&format!("user.max_user_namespaces`, which is {most}")), "{hint}");
            assert_eq!(hint.contains("host"), facts.container.is_some());
        }
    }

    #[test]
    fn each_container_is_opened_in_its_own_words() {
        for (container, words) in [
            (Container::Docker, ["seccomp=unconfined", "apparmor=unconfined", "systempaths=unconfined"]),
            (Container::Podman, ["label=disable", "unmask=ALL", "seccomp=unconfined"]),
            (Container::Kubernetes, ["hostUsers: false", "procMount: Unmasked", "appArmorProfile"]),
        ] {
            let steps = [
                (Step::Namespaces, Errno::PERM),
                (Step::Propagation, Errno::ACCESS),
                // A /proc/sys that is mounted read-only.
                (Step::NestedNamespaces, Errno::ROFS),
            ];
            for (step, errno) in steps {
                let hint = said(step, errno, &inside(container));
                assert!(words.iter().all(|word| hint.contains(word)), "{hint}");
                assert!(!hint.contains("sysctl"), "{hint}");
            }
            let on_ubuntu = Facts { apparmor_userns: true, ..inside(container) };
            let hint = said(Step::Namespaces, Errno::PERM, &on_ubuntu);
            assert!(hint.contains("on its host") && !hint.contains("/etc/apparmor.d"), "{hint}");
            assert!(
                proc(&inside(container)).contains(words[if container == Container::Docker { 2 } else { 1 }])
            );
        }
    }

    #[test]
    fn what_refuses_is_told_apart() {
        let debian = Facts { userns_clone_off: true, ..facts() };
        assert!(said(Step::Namespaces, Errno::PERM, &debian).contains("unprivileged_userns_clone=1"));
        let chroot = Facts { in_chroot: true, ..facts() };
        assert!(said(Step::Namespaces, Errno::PERM, &chroot).contains("chroot"));
        let service = Facts { filtered: true, ..facts() };
        assert!(said(Step::Namespaces, Errno::PERM, &service).contains("RestrictNamespaces"));
        assert!(said(Step::Namespaces, Errno::PERM, &facts()).contains("security module"));
        assert!(said(Step::Namespaces, Errno::INVAL, &facts()).contains("CONFIG_USER_NS"));
        let old = Facts { kernel: (5, 4), ..facts() };
        assert!(said(Step::View, Errno::NOSYS, &old).contains("5.12"));
        assert!(said(Step::NestedNamespaces, Errno::ROFS, &facts()).contains("ProtectKernelTunables"));
        assert!(said(Step::User, Errno::INVAL, &facts()).contains("--user"));
        assert!(said(Step::Fork, Errno::AGAIN, &facts()).contains("processes"));
    }

    #[test]
    fn landlock_is_missed_for_its_own_reasons() {
        let old = Facts { kernel: (5, 10), ..facts() };
        assert!(landlock(0, &old).contains("5.13"));
        let off = Facts { modules: Some("capability,yama,apparmor\n".into()), ..facts() };
        assert!(landlock(0, &off).contains("lsm=landlock,capability,yama,apparmor`"));
        let on = Facts { modules: Some("landlock,yama".into()), ..inside(Container::Docker) };
        assert!(landlock(0, &on).contains("seccomp=unconfined"));
        let filtered = Facts { filtered: true, ..facts() };
        assert!(landlock(0, &filtered).contains("landlock_restrict_self"));
        assert!(landlock(0, &facts()).contains("CONFIG_SECURITY_LANDLOCK"));
        assert!(landlock(6, &facts()).contains("another container runtime"));
    }

    #[test]
    fn kernels_have_two_numbers() {
        assert_eq!((kernel("6.8.0-36-generic\n"), kernel("5.10.0+"), kernel("")), ((6, 8), (5, 10), (0, 0)));
    }
}
