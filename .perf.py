import time, random
from core.bets import *; from core.judge import *; from core.model import Gate
rnd=random.Random(1)
def ticks(latency):
    out=[]
    for i in range(150):
        w=(5,10,25,50,100)[i//30]/100; n=1000
        def c(k): 
            k=int(k)
            return Counts(k, sum(rnd.random()<.002 for _ in range(k)), tuple(int(k*s) for s in (.5,.2,.05,.02,.01)) if latency else ())
        out.append(Tick(i*10+10,(i//3,i//30),((c(n*w),c(n-n*w)),)))
    return out
for latency in (False,True):
    e=Evidence(ticks(latency),(100,250,500,1000,2500) if latency else (),2 if latency else None)
    g=Gate()
    best=1e9
    for _ in range(150):
        t=time.process_time()
        v=judge({"web":e},g,Step(1200,1500,100,None,300))
        best=min(best,time.process_time()-t)
    print(latency,best*1000,"ms",v.kind,v.reason,v.notes)
