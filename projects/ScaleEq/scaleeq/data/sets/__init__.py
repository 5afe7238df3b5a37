"""The data sets that are known by name, in the layouts that people have on their disks."""
