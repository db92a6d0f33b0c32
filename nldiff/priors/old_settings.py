_M = {"cost_n_fft":("cost","n_fft"),"cost_hop":("cost","hop"),"refine_windows":("refinement","windows"),"polish_sigma":("polish","sigma"),"polish_steps":("polish","steps")}
def translate_settings(flat):
    g = {}
    for k,v in flat.items():
        if k in _M: a,b=_M[k]
        elif k=="refine_iterations":
            g.setdefault("refinement",{})["name"]="auto" if v else "none"
            if v: g["refinement"]["iterations"]=v
            continue
        elif k=="heun": a,b,v="sampler","name","heun" if v else "euler"
        elif k.startswith("operator_"): a,b="operator_fit",k[9:]
        else: a,b="sampler",k
        g.setdefault(a,{})[b]=v
    return g
