//! Which processes are inside a long call that changes the dataset? A freeze would wait for them, and nobody could take it back.

use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use rustix::io::Errno;

use super::describe::{container_name, container_of};
use super::holders::{info_of, infos_of, path_of};
use crate::agent::procfs::view::Process;
use crate::agent::procfs::{Device, each_number, read, vanished};
use stillpoint_api::Reason;
use stillpoint_core::blocker::blocker;
use stillpoint_core::calls::{Call, Changes, Machine, Moment, changing, ended_writes};
use stillpoint_core::limits::{LONG_CALL, MAX_PATH_CHARS, MAX_WORD_CHARS};
use stillpoint_core::text::printable;
use stillpoint_core::wire::{Blocker, Container};

/// Where the kernel lets those wait that come to a filesystem which is frozen: they are not inside.
const BEFORE_THE_DOOR: [&str; 2] = ["percpu_rwsem_wait", "__percpu_down_read"];
/// Pause before the second look at a thread, doubled for each one that follows.
const FIRST_PAUSE: Duration = Duration::from_millis(1);

/// A thread that is inside a call which changes the dataset, or may.
struct Caller<'a> {
    process: &'a Process,
    thread: PathBuf,
    call: Call,
    moment: Moment,
}

/// Looks for calls that last longer than [`LONG_CALL`]; takes as long as that only while there is one. Not while the dataset is
/// suspended: then whoever writes waits.
pub fn long(processes: &[Process], device: Device, containers: &[Container]) -> Vec<Blocker> {
    let Some(machine) = Machine::this() else { return Vec::new() };
    let mut hidden = None;
    let mut inside = Vec::new();
    for process in processes.iter().filter(|process| process.mounts_device(device)) {
        match callers(machine, process, device) {
            Ok(callers) => inside.extend(callers),
            Err(error) if vanished(&error) => {}
            Err(error) => hidden = hidden.or(Some((process.pid, error))),
        }
    }
    let (mut waited, mut pause) = (Duration::ZERO, FIRST_PAUSE);
    while !inside.is_empty() && waited < LONG_CALL {
        sleep(pause);
        waited += pause;
        pause *= 2;
        inside.retain(|caller| moment(&caller.thread).is_ok_and(|now| now == caller.moment));
    }
    inside.retain(|caller| !waits_for_a_thaw(&caller.thread));
    let blind = hidden.map(|(pid, error)| cannot_see(pid, &error));
    blind.into_iter().chain(inside.iter().map(|caller| describe(caller, containers))).collect()
}

/// The threads of a process that are inside such a call.
fn callers(machine: Machine, process: &Process, device: Device) -> io::Result<Vec<Caller<'_>>> {
    let tasks = PathBuf::from(format!("/proc/{}/task", process.pid));
    let mut found = Vec::new();
    each_number(&tasks, |thread| {
        found.extend(caller(machine, process, tasks.join(thread.to_string()), device)?);
        Ok(())
    })?;
    Ok(found)
}

fn caller(machine: Machine, process: &Process, thread: PathBuf, device: Device) -> io::Result<Option<Caller<'_>>> {
    let line = match read(&thread.join("syscall")) {
        Err(error) if vanished(&error) => return Ok(None),
        // It belongs to the process's user alone: of others' calls nothing is known without DAC_READ_SEARCH.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::ACCESS) => return Ok(None),
        line => text(line?),
    };
    let Some(call) = changing(machine, &line) else { return Ok(None) };
    if let Changes::File(number) = call.changes
        && !is_on(process, number, device)
    {
        return Ok(None);
    }
    Ok(moment(&thread).ok().map(|moment| Caller { process, thread, call, moment }))
}

fn moment(thread: &Path) -> io::Result<Moment> {
    let ended = read(&thread.join("io")).ok().and_then(|io| ended_writes(&text(io)));
    Ok(Moment { line: text(read(&thread.join("syscall"))?), ended })
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether a descriptor was opened through a mount of this device. Pipes and sockets are on mounts that no process sees.
fn is_on(process: &Process, number: i32, device: Device) -> bool {
    let info = infos_of(process).and_then(|infos| info_of(&infos, number, &mut Vec::new()));
    let mount = info.ok().and_then(|info| info.mount_id);
    mount.is_some_and(|id| process.mounts.iter().any(|mount| mount.id == id && mount.device == device))
}

fn waits_for_a_thaw(thread: &Path) -> bool {
    read(&thread.join("wchan")).is_ok_and(|place| BEFORE_THE_DOOR.iter().any(|door| place == door.as_bytes()))
}

fn describe(caller: &Caller<'_>, containers: &[Container]) -> Blocker {
    let Caller { process, call, .. } = caller;
    let (pid, name) = (process.pid, printable(&process.name(), MAX_WORD_CHARS));
    let container_id = container_of(process, containers);
    let path = match call.changes {
        Changes::File(number) => path_of(process, number),
        Changes::Named => None,
    };
    let target = match (&path, call.changes) {
        (Some(path), _) => format!("{}", path.display()),
        (None, Changes::File(number)) => format!("its descriptor {number}, which is on the volume"),
        (None, Changes::Named) => "a file that may be on the volume".to_owned(),
    };
    let message = format!(
        "process {pid} ({name}) in {} has been inside one {}(2) of {target} for more than {LONG_CALL:?}, and suspending writes \
         would wait for its end while everybody else waits; let it end, or have it write less at once",
        container_name(&container_id, containers),
        call.name,
    );
    Blocker {
        container_id,
        pid,
        process: name,
        path: printable(&path.unwrap_or_default().display().to_string(), MAX_PATH_CHARS),
        ..blocker(Reason::CallUnderWay, &message)
    }
}

fn cannot_see(pid: i32, error: &io::Error) -> Blocker {
    let why = match Errno::from_io_error(error) {
        Some(Errno::PERM) => {
            ". The agent's container needs the capability SYS_PTRACE, and the node's kernel.yama.ptrace_scope must be below 3"
        }
        _ => "",
    };
    let message = format!(
        "the agent cannot see which system call process {pid} is in: {error}; suspending writes might wait for it{why}"
    );
    Blocker { pid, ..blocker(Reason::Blind, &message) }
}
