//! What an engine, its keeper, its zygote and the first process of a sandbox say to each other: messages over
//! `SOCK_SEQPACKET` sockets, each whole or not at all, with open files beside them (unix(7)).
//!
//! Both ends come from one build, so there is nothing to negotiate; the version is there so that a zygote from elsewhere
//! (a path given by the embedder) is refused in words. Numbers are little-endian, sequences begin with their length.

use alloc::vec::Vec;

/// The version of these messages.
pub const VERSION: u32 = 5;

/// The most bytes in one message. What is larger goes into a memory file whose descriptor is passed instead.
pub const MAX_MESSAGE: usize = 128 << 10;

/// The most descriptors in one message; the kernel's own bound is 253 (SCM_MAX_FD).
pub const MAX_FDS: usize = 128;

/// A value with a form as bytes.
pub trait Wire: Sized {
    /// Appends it.
    fn put(&self, out: &mut Vec<u8>);
    /// Takes one off the front. `None`: these bytes are none.
    fn read(input: &mut &[u8]) -> Option<Self>;

    /// As bytes.
    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.put(&mut out);
        out
    }

    /// From exactly these bytes.
    fn from_bytes(mut input: &[u8]) -> Option<Self> {
        let value = Self::read(&mut input)?;
        input.is_empty().then_some(value)
    }
}

macro_rules! number {
    ($($number:ty),*) => {$(
        impl Wire for $number {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn read(input: &mut &[u8]) -> Option<Self> {
                let (head, rest) = input.split_first_chunk()?;
                *input = rest;
                Some(Self::from_le_bytes(*head))
            }
        }
    )*};
}
number!(u8, u32, u64, i32);

impl Wire for bool {
    fn put(&self, out: &mut Vec<u8>) {
        u8::from(*self).put(out);
    }
    fn read(input: &mut &[u8]) -> Option<Self> {
        match u8::read(input)? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

/// Bytes that are mostly, but not always, text: paths, arguments.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Bytes(pub Vec<u8>);

impl Wire for Bytes {
    fn put(&self, out: &mut Vec<u8>) {
        (self.0.len() as u32).put(out);
        out.extend_from_slice(&self.0);
    }
    fn read(input: &mut &[u8]) -> Option<Self> {
        let length = u32::read(input)? as usize;
        let (head, rest) = input.split_at_checked(length)?;
        *input = rest;
        Some(Self(head.to_vec()))
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u32).put(out);
        self.iter().for_each(|one| one.put(out));
    }
    fn read(input: &mut &[u8]) -> Option<Self> {
        let length = u32::read(input)?;
        // Nothing is reserved ahead: a length is a claim.
        (0..length).map(|_| T::read(input)).collect()
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }
    fn read(input: &mut &[u8]) -> Option<Self> {
        Some(if bool::read(input)? { Some(T::read(input)?) } else { None })
    }
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
    }
    fn read(input: &mut &[u8]) -> Option<Self> {
        Some((A::read(input)?, B::read(input)?))
    }
}

macro_rules! message {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name { $($(#[$doc])* pub $field: $type,)* }
        impl Wire for $name {
            fn put(&self, out: &mut Vec<u8>) {
                $(self.$field.put(out);)*
            }
            fn read(input: &mut &[u8]) -> Option<Self> {
                Some(Self { $($field: <$type>::read(input)?,)* })
            }
        }
    };
}

macro_rules! kinds {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident $({ $($(#[$fdoc:meta])* $field:ident: $type:ty),* $(,)? })? = $number:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum $name { $($(#[$doc])* $variant $({ $($(#[$fdoc])* $field: $type),* })?,)* }
        impl Wire for $name {
            fn put(&self, out: &mut Vec<u8>) {
                match self {
                    $($name::$variant $({ $($field),* })? => {
                        ($number as u8).put(out);
                        $($($field.put(out);)*)?
                    })*
                }
            }
            fn read(input: &mut &[u8]) -> Option<Self> {
                Some(match u8::read(input)? {
                    $($number => $name::$variant $({ $($field: <$type>::read(input)?),* })?,)*
                    _ => return None,
                })
            }
        }
    };
}

message! {
    /// Engine → keeper, in the first message, behind [`VERSION`]; beside it: a pidfd of the engine, and the zygote's socket.
    Init {
        /// Change to this user and group first. Only root can.
        user: Option<(u32, u32)>,
        /// The user and group that the tool sees itself as.
        inside: (u32, u32),
        /// Whether to make namespaces. Without, the zygote only forks, for levels below 3.
        namespaces: bool,
        /// How the names of the engine's own folders begin.
        prefix: Bytes,
        /// In a cgroup that was made for the zygote: where its hierarchy (v2) is mounted, and its name.
        scope: Option<(Bytes, Bytes)>,
    }
}

kinds! {
    /// A piece of the view that all sandboxes have in common. Folders come before what is in them.
    Entry {
        /// A folder.
        Folder {
            /// Its path.
            path: Bytes,
        } = 0,
        /// A symbolic link.
        Link {
            /// Its path.
            path: Bytes,
            /// Where it points.
            target: Bytes,
        } = 1,
        /// A read-only file.
        File {
            /// Its path.
            path: Bytes,
            /// What is in it.
            content: Bytes,
        } = 2,
        /// A folder or file of the host, read-only, in its own place.
        Host {
            /// Its path.
            path: Bytes,
            /// Whether it is a folder.
            folder: bool,
        } = 3,
        /// A device of the host, in its own place.
        Device {
            /// Its path.
            path: Bytes,
        } = 4,
    }
}

message! {
    /// Zygote → engine, once: what it could set up. Beside it: a pidfd of the zygote.
    Hello {
        /// [`VERSION`]
        version: u32,
        /// The ABI of Landlock (landlock(7)); 0: there is none.
        landlock_abi: u32,
        /// Whether Landlock really refused what it was told to refuse.
        landlock_files: bool,
        /// The same for abstract sockets and signals.
        landlock_scopes: bool,
        /// Whether a new /proc can be mounted.
        proc: bool,
        /// Whether the number of processes can be bounded without a cgroup.
        pid_max: bool,
    }
}

kinds! {
    /// Engine → keeper.
    Request {
        /// Make a user namespace that maps the owner on disk to the tool's user. The answer is an empty message with the
        /// namespace beside it, or a [`Failure`].
        IdMap {
            /// User and group on disk.
            owner: (u32, u32),
        } = 0,
        /// Remove from this folder, when the engine has died, what has a name that begins as its own do. There is no answer.
        Watch {
            /// The folder.
            folder: Bytes,
        } = 1,
        /// The zygote is not needed any more; the engine lives, and cleans up itself.
        Farewell = 2,
        /// Remove this folder and the folders in it, which are cgroups, when the engine has died. There is no answer.
        Cgroups {
            /// The folder.
            folder: Bytes,
        } = 3,
    }
}

message! {
    /// Engine → zygote: make a sandbox of this kind. Beside it: its end of the control socket, over which it is told what to run,
    /// and the files to join cgroups by.
    ///
    /// If there are namespaces, another message comes before the first of these: the [version](VERSION), and beside it a file with
    /// what every sandbox shows, a sequence of [`Entry`].
    Kind {
        /// Whether the tool shares the host's network.
        host_network: bool,
        /// Places at which something will be mounted, and whether it is a folder. Sorted.
        points: Vec<(Bytes, bool)>,
        /// Bytes and files in `/tmp`, and the same again in `/dev/shm`.
        tmp: (u64, u64),
    }
}

message! {
    /// Engine → the program's own process. After it in the same message, or in the memory file whose descriptor is the last one
    /// beside it, comes a [`Launch`].
    ///
    /// Beside it: stdin, stdout, stderr, the mounts.
    Head {
        /// Whether the launch is in a memory file.
        apart: bool,
    }
}

message! {
    /// Engine → the program's own process: what to show and what to run.
    Launch {
        /// The program as the sandbox shows it.
        program: Bytes,
        /// Its arguments, its own name first.
        args: Vec<Bytes>,
        /// `NAME=VALUE`
        env: Vec<Bytes>,
        /// The folder to run in, as the sandbox shows it.
        workdir: Bytes,
        /// What to mount, outer places before inner ones.
        mounts: Vec<Mount>,
        /// Numbers of resources (getrlimit(2)) and their limits, soft and hard.
        rlimits: Vec<(u32, (u64, u64))>,
        /// Places that may be written to besides those that every sandbox has. Everything else that is shown may be read and
        /// executed.
        writable: Vec<Bytes>,
        /// Below level 3: places that may be read and executed.
        readable: Vec<Bytes>,
        /// Whether TCP is refused, below level 3 all sockets that reach somebody.
        no_network: bool,
        /// A bound on process ids inside; 0: none.
        pid_max: u32,
    }
}

message! {
    /// Something to mount.
    Mount {
        /// Where.
        target: Bytes,
        /// Whether it is a folder.
        folder: bool,
        /// What.
        what: What,
    }
}

kinds! {
    /// What is mounted.
    What {
        /// A folder or file of the host; no symbolic link on the way there.
        Path {
            /// Its path.
            source: Bytes,
            /// Its device, as the engine saw it.
            device: u64,
            /// Its inode, as the engine saw it.
            inode: u64,
            /// Whether writing is refused.
            read_only: bool,
        } = 0,
        /// The next of the mounts that were handed over.
        Passed = 1,
        /// An empty, writable folder with room for so many bytes and files.
        Tmpfs {
            /// Bytes.
            size: u64,
            /// Files.
            inodes: u64,
        } = 2,
        /// An empty, read-only folder.
        EmptyFolder = 3,
        /// An empty, read-only file.
        EmptyFile = 4,
    }
}

kinds! {
    /// First process of a sandbox → engine; but for the first of these.
    Event {
        /// From the program's own process, before it knows what it is to run: the kernel says beside it which it is. With it: a
        /// pidfd of the first process, its mount namespace if it has its own. Who has not heard this has nothing to wait for.
        Born = 4,
        /// The program runs.
        Started = 0,
        /// Nothing runs.
        Failed {
            /// Why.
            failure: Failure,
        } = 1,
        /// The program has ended.
        Exited {
            /// As wait4(2) tells it.
            status: i32,
            /// Microseconds on a processor in user mode.
            user: u64,
            /// The same in the kernel.
            system: u64,
            /// KiB of the largest resident set.
            max_rss: u64,
            /// Whether others of the sandbox are still alive.
            others: bool,
        } = 2,
        /// The answer to [`Order::Ask`], if the program has not ended.
        Running = 5,
        /// The answer to [`Order::List`].
        Living {
            /// Process id as it sees it, process group (2: the program's own), command line.
            processes: Vec<(i32, (i32, Bytes))>,
            /// Whether there are more than are named.
            more: bool,
        } = 3,
    }
}

kinds! {
    /// Engine → first process of a sandbox.
    Order {
        /// SIGTERM and SIGCONT to the program, its group and all others.
        Terminate = 0,
        /// SIGKILL to all, below level 3; from level 3 on the first process is killed instead.
        Kill = 1,
        /// Who is alive besides you and the program?
        List = 2,
        /// Does the program run?
        Ask = 3,
    }
}

message! {
    /// A step that failed, on what, and the kernel's answer.
    Failure {
        /// Which.
        step: Step,
        /// A path or a name; may be empty.
        subject: Bytes,
        /// errno(3)
        errno: i32,
    }
}

kinds! {
    /// The steps of setting up a zygote and a sandbox.
    Step {
        /// Understanding the message.
        Message = 0,
        /// Changing the user.
        User = 1,
        /// Making the user namespace and the others that all sandboxes share.
        Namespaces = 2,
        /// Writing the map of users.
        UserMap = 3,
        /// Forbidding nested user namespaces.
        NestedNamespaces = 4,
        /// Cutting the mounts off from the host's.
        Propagation = 5,
        /// Building the view that all sandboxes share.
        View = 6,
        /// Making the process.
        Fork = 7,
        /// Opening a path of the policy.
        Path = 8,
        /// Comparing what is at a path with what was there.
        Identity = 9,
        /// Cloning a mount.
        Clone = 10,
        /// Making a mount read-only.
        Attributes = 11,
        /// Making or entering the network namespace.
        Network = 12,
        /// Entering the view.
        Enter = 13,
        /// Mounting a tmpfs.
        Tmpfs = 14,
        /// Mounting /proc.
        Proc = 15,
        /// Attaching a mount.
        Attach = 16,
        /// Bounding the process ids.
        PidMax = 17,
        /// Making or enforcing the Landlock rules.
        Landlock = 18,
        /// Installing the system call filter.
        Seccomp = 19,
        /// Joining the cgroup.
        Cgroup = 20,
        /// Setting a resource limit.
        Limit = 21,
        /// Giving up capabilities.
        Capabilities = 22,
        /// Entering the working folder.
        Workdir = 23,
        /// Executing the program.
        Exec = 24,
        /// Watching over it: pidfd, signalfd.
        Watch = 25,
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let event = Event::Exited { status: -1, user: 2, system: 3, max_rss: u64::MAX, others: true };
        assert_eq!(Event::from_bytes(&event.to_bytes()), Some(event));
        let launch = Launch {
            program: Bytes(b"/bin/true".to_vec()),
            args: vec![Bytes(b"true".to_vec()), Bytes(vec![0xff])],
            env: vec![],
            workdir: Bytes(b"/".to_vec()),
            mounts: vec![Mount {
                target: Bytes(b"/x".to_vec()),
                folder: true,
                what: What::Tmpfs { size: 1, inodes: 2 },
            }],
            rlimits: vec![(1, (2, 3))],
            writable: vec![],
            readable: vec![],
            no_network: true,
            pid_max: 400,
        };
        assert_eq!(Launch::from_bytes(&launch.to_bytes()), Some(launch));
    }

    #[test]
    fn nothing_is_read_from_bytes_that_are_short_long_or_wild() {
        let whole = Failure { step: Step::Exec, subject: Bytes(b"/x".to_vec()), errno: 2 }.to_bytes();
        for length in 0..whole.len() {
            assert_eq!(Failure::from_bytes(&whole[..length]), None, "{length}");
        }
        assert_eq!(Failure::from_bytes(&[whole, vec![0]].concat()), None);
        assert_eq!(Vec::<Bytes>::from_bytes(&[0xff; 8]), None);
        assert_eq!(Step::from_bytes(&[250]), None);
    }
}
