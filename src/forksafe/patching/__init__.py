"""What install() replaces in other modules, and what it repairs in children.

install.py         install(), uninstall(), report()
connections.py     install(connections=True)
imports.py         modules that a vanished thread was importing
streams.py         standard streams and log files that a vanished thread was writing to
post_import.py     callbacks for when a module has been imported
instance_hooks.py  callbacks for when a class or function of a module has made something
"""
