"""course: the lessons, in their order: what is sent, what is asked, what is told about it afterwards.

Room: the top. Called by: learn. Calls: demo, threads (for their source text).

A lesson is a prediction that is checked: the reader looks at a few lines, chooses one of the drawn pictures, and the
requests are sent to a real server whose lens is on. What is told then has the figures of that very run in it: `{all}` is
the time from the first request's start to the last one's end; `{total[0]}` is the first request's total, and so for each
field of Facts. `holds` says whether the run shows what the lesson claims: on a busy machine it may not, and then the page
says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

from fastserve.lens.lessons import demo, threads

__all__ = ["LESSONS", "Bar", "Call", "Facts", "Lesson", "Option"]

COLUMNS = 48  # of a drawn row
NAME = 9  # columns of its name
INKS = {"#": "busy", "-": "idle", ".": "wait", "x": "late", "/": "scheduled", "t": "thread", "w": "write"}
"""What the characters of a drawn picture stand for: runs, is parked, is parked for another request, is parked while others
hold the loop, is ready, runs in a thread, writes to a slow client."""


class Call(NamedTuple):
    """One request of a run."""

    path: str
    at: float = 0.0  # seconds after the first
    slow: bool = False  # the client reads slowly


class Bar(NamedTuple):
    kind: str
    start: float  # 0 to 1
    end: float


class Option(NamedTuple):
    """One prediction: words, and the picture of it, drawn with INKS: a line for each row."""

    text: str
    picture: str

    def rows(self) -> list[tuple[str, list[Bar]]]:
        found = []
        for line in self.picture.strip("\n").splitlines():
            bars, at = [], 0
            for ink, run in groupby(line[NAME:]):
                length = len(list(run))
                if ink != " ":
                    bars.append(Bar(INKS[ink], at / COLUMNS, (at + length) / COLUMNS))
                at += length
            found.append((line[:NAME].strip(), bars))
        return found


@dataclass(frozen=True)
class Facts:
    """What one run was, in ns; lists in the order of the calls."""

    all: int
    total: list[int]
    busy: list[int]
    scheduled: list[int]
    idle: list[int]
    late: list[int]
    kernel: list[int]
    queue: list[int]
    write: list[int]
    tasks: list[int]


@dataclass(frozen=True)
class Lesson:
    key: str
    title: str
    idea: str
    shown: tuple[Any, ...]  # functions whose source is shown
    calls: tuple[Call, ...]
    question: str
    options: tuple[Option, ...]
    answer: int
    tells: tuple[str, ...]
    words: tuple[tuple[str, str, str], ...]  # asyncio's word, Rust's word, what happened
    holds: Callable[[Facts], bool]
    select: int = 0  # which request the picture opens with
    wsgi: bool = False


MS = 1_000_000


def near(value: float, wanted: float, slack: float = 0.45) -> bool:
    """Within so much of it, for a machine that has other things to do as well."""
    return wanted * MS * (1 - slack / 3) <= value <= wanted * MS * (1 + slack)


LESSONS: tuple[Lesson, ...] = (
    Lesson(
        "wait",
        "Waiting is not working",
        "An await that must wait parks its task. The loop is free for others.",
        (demo.wait,),
        (Call("/wait/ada"), Call("/wait/bob")),
        "Ada and Bob ask at the same moment. One worker, one thread. When do both have their answer?",
        (
            Option(
                "After 200 ms: one after the other",
                """
ada      #----------------------#
bob                              #----------------------#
""",
            ),
            Option(
                "After 100 ms: both are parked at once",
                """
ada      #----------------------#
bob       #----------------------#
""",
            ),
            Option(
                "After 100 ms: the loop runs both at once, in two threads",
                """
ada      ########################
bob      ########################
""",
            ),
        ),
        1,
        (
            "Both had their answer after {all}. Ada's task ran for {busy[0]} in all, and was parked for {idle[0]}.",
            "The loop polled Ada's task: it ran up to the await and had to wait, so it handed its future to the loop and "
            "was parked. Then the loop polled Bob's. Nobody polled either of them again until its timer was due: the "
            "timer completed the future, the future's waker put the task into the ready queue, and the loop polled it "
            "once more, to its end. A task that waits costs nothing but memory.",
        ),
        (
            ("await asyncio.sleep(0.1)", "tokio::time::sleep(...).await", "a leaf future that a timer completes"),
            ("the step yields the future", "Poll::Pending", "not done: parked"),
            ("done-callback, call_soon", "Waker::wake", "done: into the ready queue"),
            ("one step, send(None)", "Future::poll", "each of the thin blue bars"),
        ),
        lambda facts: near(facts.all, 100),
    ),
    Lesson(
        "block",
        "A poll that does not return",
        "Code that waits without await holds the loop, and everybody on it.",
        (demo.block, demo.short),
        (Call("/short/ada"), Call("/block/bob", 0.005)),
        "Ada sleeps for 20 ms, the asynchronous way. 5 ms later Bob's handler calls time.sleep(0.1). "
        "When does Ada get her answer?",
        (
            Option(
                "After 20 ms, when her timer is due",
                """
ada      #-------#
bob        ############################################
""",
            ),
            Option(
                "After 105 ms, when Bob's handler has returned",
                """
ada      #-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx#
bob        ############################################
""",
            ),
            Option(
                "After 125 ms: her sleep begins anew",
                """
ada      #-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx--------#
bob        #####################################
""",
            ),
        ),
        1,
        (
            "Ada waited {total[0]} for a sleep of 20 ms. Bob's one poll lasted {busy[1]}, and in that time the loop did "
            "not turn: up to {late[0]} of Ada's wait is his.",
            "Her timer was due all right; but it is the loop that looks at timers, and the loop was inside "
            "time.sleep(). asyncio cannot interrupt a step: it is cooperative. Nothing in Ada's code is slow, and "
            "no profiler of her handler will find anything. One long bar in the lane holds the loop: look for those.",
        ),
        (
            ("a step that does not return", "a poll that does not return", "blocking"),
            ("event loop", "executor", "one thread that polls; it cannot take a task away"),
            ("asyncio.to_thread", "spawn_blocking", "the way out, three lessons on"),
        ),
        lambda facts: facts.total[0] > 80 * MS and near(facts.busy[1], 100),
    ),
    Lesson(
        "gather",
        "Waits that overlap",
        "A coroutine does one thing after the other. Tasks overlap.",
        (demo.price, demo.stock, demo.serial, demo.gather),
        (Call("/serial"), Call("/gather", 0.2)),
        "price() takes 50 ms, stock() 60 ms. How long does /gather take, and how many tasks are there in it?",
        (
            Option(
                "110 ms, one task",
                """
gather   #--------------------#-----------------------#
""",
            ),
            Option(
                "60 ms, three tasks",
                """
gather   #-----------------------#
price     #-------------------#
stock      #---------------------#
""",
            ),
            Option(
                "60 ms, one task that is in two places",
                """
gather   #-----------------------#
""",
            ),
        ),
        1,
        (
            "/serial took {total[0]}, /gather {total[1]}. /gather had {tasks[1]} tasks: the handler's own, and one for "
            "each of the two.",
            "`await price()` does not start anything by itself: the handler's task runs into price() and is parked "
            "there. gather wraps each coroutine in a task; the loop polls them in turn, they are parked at the same "
            "time, and the handler's task waits for its children. The arrows show who woke whom.",
        ),
        (
            ("create_task, gather, TaskGroup", "tokio::spawn, join!", "a task of its own"),
            ("a coroutine by itself", "a future by itself", "does nothing until somebody polls it"),
            ("await on gather's future", "JoinHandle .await", "the parent is parked on its children"),
        ),
        lambda facts: near(facts.total[0], 110) and near(facts.total[1], 60) and facts.tasks[1] == 3,
        select=1,
    ),
    Lesson(
        "lock",
        "Who wakes whom",
        "A lock is handed over: its holder wakes the next one.",
        (demo.locked,),
        (Call("/lock/ada"), Call("/lock/bob", 0.002), Call("/lock/cy", 0.004)),
        "Three requests want one lock, and each holds it for 40 ms. Who wakes Cy?",
        (
            Option(
                "A timer, after 80 ms",
                """
ada      #--------------#
bob       .--------------#
cy         ------------------------------#
""",
            ),
            Option(
                "Bob's task, when it leaves the lock",
                """
ada      #--------------#
bob       #..............#--------------#
cy         #.............................#--------------#
""",
            ),
            Option(
                "Nobody: it tries again until the lock is free",
                """
cy         # # # # # # # # # # # # # # # #--------------#
""",
            ),
        ),
        1,
        (
            "Ada took {total[0]}, Bob {total[1]}, Cy {total[2]}: each waits for those before it.",
            "A task that wants a taken lock makes a future, puts it into the lock's queue, and is parked. Whoever "
            "releases the lock completes the first future in that queue: the waker, a callback of the future, puts "
            "its task into the ready queue. Click a parked slice of Cy's: the page names the task that woke it. "
            "Nobody ever polls in vain.",
        ),
        (
            ("asyncio.Lock", "tokio::sync::Mutex", "a queue of wakers"),
            ("future.set_result()", "waker.wake()", "what the releasing task does"),
            ("loop._ready", "run queue", "where the woken task then stands"),
        ),
        lambda facts: near(facts.total[0], 40) and near(facts.total[1], 78) and near(facts.total[2], 116),
        select=2,
    ),
    Lesson(
        "thread",
        "A place for code that blocks",
        "Give it to a thread, and await the thread.",
        (demo.work, demo.thread, demo.short),
        (Call("/thread/ada"), Call("/short/bob", 0.01)),
        "Ada's handler sends 80 ms of blocking work to a thread. Bob sleeps for 20 ms. When does Bob get his answer?",
        (
            Option(
                "After 20 ms: the loop is free",
                """
ada      #--------------------------------------------#
thread    ttttttttttttttttttttttttttttttttttttttttttt
bob           #----------#
""",
            ),
            Option(
                "After 80 ms: the thread has the GIL",
                """
ada      #--------------------------------------------#
thread    ttttttttttttttttttttttttttttttttttttttttttt
bob           #xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx#
""",
            ),
            Option(
                "After 100 ms: one after the other",
                """
ada      ###################################
bob                                         #---------#
""",
            ),
        ),
        0,
        (
            "Bob had his answer after {total[1]}, while Ada's thread ran on. Ada's task was parked for {idle[0]} and "
            "ran for {busy[0]}.",
            "to_thread gives the function to a pool of threads and hands back a future. The task is parked on it like "
            "on any other; the thread completes it from outside, and wakes the loop to say so. time.sleep() lets go of "
            "the GIL, and so do sockets, files and most databases. Work in pure Python does not: it takes turns with "
            "the loop, and wants a process.",
        ),
        (
            ("asyncio.to_thread", "spawn_blocking", "run it elsewhere"),
            ("call_soon_threadsafe", "Waker: Send + Sync", "waking the loop from another thread"),
            ("a plain `def` handler", "-", "fastserve runs it in a thread by itself"),
        ),
        lambda facts: near(facts.total[1], 20, 0.9) and near(facts.total[0], 80),
    ),
    Lesson(
        "client",
        "The client is part of it",
        "An answer is not over when it is made, but when it is taken.",
        (demo.download,),
        (Call("/download", slow=True),),
        "The handler yields 6 MB and never sleeps. The client reads slowly. Where does the time go?",
        (
            Option(
                "The handler runs all the time",
                """
handler  ################################################
""",
            ),
            Option(
                "It is made at once and kept in memory; the handler ends early",
                """
handler  ######
client         wwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwww
""",
            ),
            Option(
                "The handler is parked: a yield waits until the client has taken bytes",
                """
handler  ##-------#-------#-------#-------#-------#-----#
client     wwwwwww wwwwwww wwwwwww wwwwwww wwwwwww wwwww
""",
            ),
        ),
        2,
        (
            "It took {total[0]}. The handler ran for {busy[0]}; for {write[0]} the client did not take what there was.",
            "Between them are buffers: the kernel's and the server's. When they are full, writing must wait, and the "
            "handler is parked on a future that the socket completes when there is room again. This is back-pressure: "
            "memory stays bounded, and a slow client costs a parked task, not a thread.",
        ),
        (
            ("await drain(), await send()", "poll_write, poll_ready", "writing may have to wait as well"),
            ("selector: the socket is writable", "reactor: readiness", "who completes the future"),
            ("back-pressure", "back-pressure", "the same word, for once"),
        ),
        lambda facts: facts.total[0] > 100 * MS and facts.write[0] > facts.total[0] // 2 > facts.busy[0],
    ),
    Lesson(
        "late",
        "Timers are promises, not appointments",
        "A timer fires when the loop comes round, not when it is due.",
        (demo.short, demo.compute),
        (Call("/short/ada"), Call("/compute", 0.01)),
        "Ada sleeps for 20 ms. After 10 ms another request computes for 60 ms: honest work, no sleep in it. "
        "When does Ada wake?",
        (
            Option(
                "After 20 ms",
                """
ada      #-----------#
compute         ########################################
""",
            ),
            Option(
                "After 70 ms, when the computation is over",
                """
ada      #------xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx#
compute         ########################################
""",
            ),
            Option(
                "After 20 ms: the loop interrupts the computation",
                """
ada      #-----------##
compute         #####//###################################
""",
            ),
        ),
        1,
        (
            "Ada woke after {total[0]} instead of 20 ms; the computation ran for {busy[1]} without a break.",
            "It need not be time.sleep: a loop over a long list, a big JSON document, a template, a slow regular "
            "expression, a collection of garbage do the same. The page marks the part of Ada's wait in which others "
            "held the loop, and says `at most`, because a loop that does not turn cannot know when exactly the timer "
            "was due. asyncio.timeout() is such a timer too: it may cut late.",
        ),
        (
            ("loop.call_later", "tokio's timer wheel", "looked at once a turn"),
            ("await asyncio.sleep(0)", "tokio::task::yield_now", "give way, and go on at the end of the queue"),
            ("time between due and run", "scheduling delay", "hatched in the picture"),
        ),
        lambda facts: facts.total[0] > 50 * MS and near(facts.busy[1], 60),
    ),
    Lesson(
        "pool",
        "A queue you did not write",
        "Few connections, many requests: most of them wait for each other.",
        (demo.Pool, demo.query),
        tuple(Call(f"/query/{name}", at / 1000) for at, name in enumerate(("ada", "bob", "cy", "dee", "eve"))),
        "A query takes 50 ms, and the pool has two connections. Five requests come at once. "
        "When does the last one have its answer?",
        (
            Option(
                "After 50 ms: they are all parked at once",
                """
ada      #--------------#
bob      #--------------#
cy        #--------------#
dee       #--------------#
eve        #--------------#
""",
            ),
            Option(
                "After 150 ms: two at a time",
                """
ada      #--------------#
bob      #---------------#
cy        #..............#--------------#
dee       #...............#--------------#
eve        #.............................#--------------#
""",
            ),
            Option(
                "After 250 ms: one at a time",
                """
ada      #-------#
bob       .......#--------#
cy         ................#--------#
dee         ........................#--------#
eve          ................................#--------#
""",
            ),
        ),
        1,
        (
            "All had their answers after {all}: Ada after {total[0]}, Cy after {total[2]}, Eve after {total[4]}.",
            "The database is not slow, and the loop is idle nearly all the time: the requests queue for the pool. More "
            "workers would not help, a larger pool might, and holding a connection for a shorter time does: release it "
            "before the next await that does not need it. Click the first parked slice of Eve's: it waits at "
            "pool.acquire(), and was woken by the task that gave its connection back.",
        ),
        (
            ("Semaphore, Queue, Pool.acquire", "Semaphore, bb8, deadpool", "a resource with a queue in front"),
            ("parked on a future", "Poll::Pending", "the same to the loop as any other wait"),
        ),
        lambda facts: near(facts.total[0], 50) and near(facts.total[2], 98) and near(facts.total[4], 146),
        select=4,
    ),
    Lesson(
        "threads",
        "The other way: a thread for each request",
        "WSGI: code may block, and the threads are the limit.",
        (threads.app, demo.block),
        (Call("/block/ada"), Call("/block/bob", 0.002), Call("/block/cy", 0.004)),
        "The same time.sleep(0.1), now in WSGI with two threads. Three requests come at once. What will be seen?",
        (
            Option(
                "Two run at once; the third waits for a thread",
                """
thread 1 tttttttttttttttttttttttttttttttttttttttttttttttt
thread 2  ttttttttttttttttttttttt
cy        ///////////////////////tttttttttttttttttttttttt
""",
            ),
            Option(
                "They block each other, as on the loop",
                """
ada      ################
bob       xxxxxxxxxxxxxxx################
cy        xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx################
""",
            ),
            Option(
                "All three run at once",
                """
thread 1 tttttttttttttttttttttttt
thread 2  tttttttttttttttttttttttt
thread 3   tttttttttttttttttttttttt
""",
            ),
        ),
        0,
        (
            "Ada took {total[0]}, Bob {total[1]}. Cy took {total[2]}: {queue[2]} of it was the wait for a thread.",
            "In a thread, blocking is no sin: the operating system takes the processor away and gives it to another. "
            "The price is memory, and a limit: with forty threads the forty-first slow request waits, and no picture of "
            "its own code shows why. On the loop there is one lane with many parked tasks; here there are many lanes, "
            "and each is full.",
        ),
        (
            ("ThreadPoolExecutor, --threads", "a pool of blocking threads", "how many may block at once"),
            ("thread queue", "the pool's queue", "the third one's hatched bar"),
            ("preemptive", "preemptive", "the system may take a thread away; a loop cannot take a task away"),
        ),
        lambda facts: near(facts.total[0], 100) and near(facts.total[1], 100) and facts.queue[2] > 60 * MS,
        select=2,
        wsgi=True,
    ),
)
