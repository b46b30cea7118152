"""Do the fixes that gradscope tries really mend, and is what it calls a help one?"""
