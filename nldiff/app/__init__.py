"""The local web page of `nldiff app`: upload a recording, and get the preview page and the files.

May import `errors`, `version`, `interrupts`, `sound`, `restoration` and `report`. A server on the loopback interface
takes uploads and shows pages (`server`), keeps what was asked for in a temporary folder (`tasks`), and leaves the work
to a process that can be ended at any time (`worker`).
"""
