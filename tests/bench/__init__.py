"""``make bench``: what a hook costs, beside HAProxy and two other Python proxies, measured in turn."""
