//! Measures what work costs: wall time, CPU of the servers, of this process's children and of everything else, and memory. From `/proc`.

use hyperlift::error::{Error, Result};
use std::{fs, path::Path, time::Instant};

/// Ticks per second in `/proc` (`USER_HZ`; 100 on every Linux, whatever the kernel's own frequency is).
const TICKS: f64 = 100.0;

/// CPU of one process, seconds.
struct Cpu {
    parent: u32,
    own: f64,
    /// Of its children that have ended and were waited for.
    ended: f64,
}

fn cpu(pid: &str) -> Option<Cpu> {
    // proc(5): after the command in parentheses come state, ppid (field 4), …, utime, stime, cutime, cstime (fields 14 to 17).
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let seconds = |field: usize| fields.get(field - 3)?.parse::<f64>().ok().map(|ticks| ticks / TICKS);
    Some(Cpu { parent: fields.get(1)?.parse().ok()?, own: seconds(14)? + seconds(15)?, ended: seconds(16)? + seconds(17)? })
}

/// CPU seconds of this process so far, all threads.
pub fn own_cpu() -> f64 {
    cpu("self").map_or(0.0, |c| c.own)
}

/// CPU seconds of another process so far, without its children.
pub fn process_cpu(pid: u32) -> f64 {
    cpu(&pid.to_string()).map_or(0.0, |c| c.own)
}

/// The most memory that this process ever had resident (`VmHWM`), bytes.
pub fn peak_rss() -> u64 {
    peak_rss_of("self")
}

/// The same of any process; 0 when it has ended.
pub fn peak_rss_of(pid: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) << 10
}

/// CPU seconds of a server since it started. All its processes are children of the postmaster, which waits for each that ends.
fn server_cpu(postmaster: u32) -> f64 {
    let postmaster_cpu = || cpu(&postmaster.to_string());
    let mut last = postmaster_cpu();
    loop {
        let Some(server) = last else { return 0.0 };
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let children = processes.filter(|name| name.starts_with(|c: char| c.is_ascii_digit())).filter_map(|pid| cpu(&pid));
        let running = children.filter(|c| c.parent == postmaster).map(|c| c.own).sum::<f64>();
        last = postmaster_cpu();
        // A child that ends between the two reads would be counted twice, or not at all: read again.
        if last.as_ref().is_none_or(|now| now.ended.total_cmp(&server.ended).is_eq()) {
            return server.own + server.ended + running;
        }
    }
}

/// CPU seconds of the whole machine since it started, without idle, waiting and stolen time.
fn machine_cpu() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks: Vec<f64> = text.lines().next().unwrap_or_default().split_whitespace().skip(1).filter_map(|t| t.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal
    [0, 1, 2, 5, 6].iter().filter_map(|field| ticks.get(*field)).sum::<f64>() / TICKS
}

/// The postmaster of a data directory.
pub fn postmaster(data: &Path) -> Result<u32> {
    let text = fs::read_to_string(data.join("postmaster.pid"))?;
    text.lines().next().and_then(|l| l.trim().parse().ok()).ok_or_else(|| Error::failed("postmaster.pid has no process id"))
}

#[derive(Clone, Copy)]
struct Totals {
    source: f64,
    target: f64,
    children: f64,
    own: f64,
    machine: f64,
}

/// Measures from its start to [`Stopwatch::stop`].
pub struct Stopwatch {
    /// Postmasters of source and target.
    servers: [u32; 2],
    at: Instant,
    before: Totals,
}

/// What was spent, in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Spent {
    pub wall: f64,
    pub source_cpu: f64,
    pub target_cpu: f64,
    /// Of processes that this process has started and waited for.
    pub children_cpu: f64,
    /// Of all other processes on the machine: noise.
    pub other_cpu: f64,
}

impl Stopwatch {
    pub fn start(servers: [u32; 2]) -> Self {
        let before = Totals::now(servers);
        Self { servers, at: Instant::now(), before }
    }

    /// Seconds so far.
    pub fn elapsed(&self) -> f64 {
        self.at.elapsed().as_secs_f64()
    }

    pub fn stop(self) -> Spent {
        let wall = self.at.elapsed().as_secs_f64();
        let (now, before) = (Totals::now(self.servers), self.before);
        let (source, target, children) = (now.source - before.source, now.target - before.target, now.children - before.children);
        let other = now.machine - before.machine - source - target - children - (now.own - before.own);
        Spent { wall, source_cpu: source, target_cpu: target, children_cpu: children, other_cpu: other.max(0.0) }
    }
}

impl Totals {
    fn now([source, target]: [u32; 2]) -> Self {
        let own = cpu("self");
        Self {
            source: server_cpu(source),
            target: server_cpu(target),
            children: own.as_ref().map_or(0.0, |c| c.ended),
            own: own.as_ref().map_or(0.0, |c| c.own),
            machine: machine_cpu(),
        }
    }
}
