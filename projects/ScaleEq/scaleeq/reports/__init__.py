"""What people look at: pages, drawings and tables of what the machinery measured. Nothing below imports it."""
